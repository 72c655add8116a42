from tests.bench.results import Results


def table(case: str, results: Results) -> str:
    names = [
        "failed",
        "per_second",
        "duration_p50",
        "duration_p99",
        "first_byte_p99",
        "delay_p50",
        "delay_p99",
        "opening_delay_p99",
        "cpu_us",
        "busy_percent",
        "rss_idle",
        "rss_peak",
        "rss_after",
    ]
    present = [n for n in names if any(results.rounds(case, v, n) for v in results.variants(case))]
    lines = [f"{case:>12}" + "".join(f"{n:>18}" for n in present)]
    for v in results.variants(case):
        cells = []
        for n in present:
            m = results.median(case, v, n)
            cells.append("" if m is None else f"{m:.2f}")
        lines.append(f"{v:>12}" + "".join(f"{c:>18}" for c in cells))
    return "\n".join(lines)
