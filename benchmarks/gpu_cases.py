"""Peak memory of the cases of ``tests/gpu``, and how well engine and actor agree: ``python benchmarks/gpu_cases.py``.

Writes the table of what is in ``results/gpu.json``, which this makes on a machine with CUDA:

    GPU_RESULTS=benchmarks/results/gpu.json make test-gpu
"""

import report

from verl_mars.fields import Fields

PEAK = "actor/perf/max_memory_allocated_gb"
CORRELATION = "training/rollout_actor_probs_pearson_corr"
LOG_PPL = "rollout_corr/log_ppl_abs_diff"


def table(result: Fields) -> str:
    """A row for each case."""
    rows = []
    for name, case in result["cases"].items():
        metrics = case["metrics"]
        agreement = [f"{metrics[f'{step} {CORRELATION}']:.4f}, {metrics[f'{step} {LOG_PPL}']:.4f}" for step in (1, 2)]
        rows.append([f"`{name}`", case["outcome"], *agreement, f"{metrics[f'2 {PEAK}'] * 2**30 / 1e9:.1f}"])
    head = ["test", "outcome", "step 1: correlation, log-ppl difference", "step 2: the same", "peak of the actor, GB"]
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    where = f"Measured on {result['date']}: one {result['device']}; {versions}. {result['model']}."
    return f"{where}\n\n{report.markdown(head, rows)}"


if __name__ == "__main__":
    measured = report.read("gpu")
    report.publish("gpu", measured, table(measured))
