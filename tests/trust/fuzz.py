"""Coverage-guided fuzzing of one target, in a process of its own: `python -m tests.trust.fuzz TARGET SECONDS CORPUS`.

Atheris is not in .venv: PYTHONPATH names where it is. Ends with 0 after so many seconds, and with what libFuzzer has for a
broken promise, whose input it prints.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from .mutation import HARMFUL


def main() -> None:
    import atheris

    name, seconds, folder = sys.argv[1:]
    with atheris.instrument_imports(include=["oauth_pool_proxy", "oauth_pool_operator"]):
        from .all_targets import TARGETS
    logging.disable(logging.CRITICAL)
    target = next(one for one in TARGETS if one.name == name)
    corpus, words = Path(folder) / "corpus", Path(folder) / "words"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in HARMFUL))
    flags = [
        f"-max_total_time={seconds}",
        f"-dict={words}",
        "-timeout=10",
        "-max_len=4096",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([name, *flags, "-print_final_stats=1", str(corpus)], target.run)
    fuzz: Any = atheris.Fuzz
    fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
