"""What a local Ray is started with."""

from rayllm.pipelines.ray_runtime import without_idle_processes


def test_a_local_ray_has_no_processes_that_nobody_uses() -> None:
    from ray._private import parameter

    with without_idle_processes():
        lean = parameter.RayParams(num_cpus=1)
    assert lean.no_monitor is True
    assert lean.include_log_monitor is False
    assert lean.num_cpus == 1
    assert parameter.RayParams().no_monitor is False  # as before, for whoever starts a Ray next
