"""Documents that are kept in several ConfigMaps: the pool index, and the sealed tokens.

The first has the family's name, the others have a number after it. All have the family's label, for people. The first one says
how many there are, because readers may not list them.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from lightkube.core.async_client import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap
from lightkube.types import PatchType

from oauth_pool_operator.account.spec import GROUP
from oauth_pool_operator.cluster.answers import is_gone

INDEX_LABEL = f"{GROUP}/index"
TOKENS_LABEL = f"{GROUP}/tokens"
TOKENS_CONFIG_MAP = "oauth-tokens"
SHARDS_ANNOTATION = f"{GROUP}/shards"

# What the annotation may say. Anybody may edit it, and a number of 5,000 digits is one that Python refuses to read.
_SHARDS = re.compile(r"[1-9][0-9]{0,3}")


class SharedMap(NamedTuple):
    """One ConfigMap of a family. What `shards` says, how many there are in all, counts only of the first."""

    data: dict[str, str]
    shards: int = 1


def shard_name(family: str, shard: int) -> str:
    """The name of one ConfigMap of the family."""
    return f"{family}-{shard}" if shard else family


async def read(client: AsyncClient, family: str, label: str, shard: int) -> SharedMap:
    """As it is now; a missing one, or one without its label, counts as empty."""
    try:
        found = await client.get(ConfigMap, shard_name(family, shard))
    except ApiError as error:
        if is_gone(error):
            return SharedMap({})
        raise
    metadata = found.metadata or ObjectMeta()
    if (metadata.labels or {}).get(label) != "1":
        return SharedMap({})
    said = (metadata.annotations or {}).get(SHARDS_ANNOTATION, "")
    return SharedMap(dict(found.data or {}), int(said) if _SHARDS.fullmatch(said) else 1)


async def write(
    client: AsyncClient,
    family: str,
    label: str,
    shard: int,
    changes: Mapping[str, str | None],
    *,
    whole: Mapping[str, str],
    shards: int,
) -> None:
    """Merge the changes into the ConfigMap; if it does not exist, create it with all of `whole`.

    The first one says that there are `shards` in all.
    """
    name, labels = shard_name(family, shard), {label: "1"}
    annotations = {SHARDS_ANNOTATION: str(shards)} if shard == 0 and shards > 1 else {}
    patch = {"metadata": {"labels": labels, "annotations": annotations}, "data": dict(changes)}
    try:
        await client.patch(ConfigMap, name, patch, patch_type=PatchType.MERGE)
    except ApiError as error:
        if not is_gone(error):
            raise
        if changes and not any(changes.values()):
            return  # one that is not there lists nobody, and cannot be made in a namespace that is going
        metadata = ObjectMeta(name=name, labels=labels, annotations=annotations)
        await client.create(ConfigMap(metadata=metadata, data=dict(whole)))
