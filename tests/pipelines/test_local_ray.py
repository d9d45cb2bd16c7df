"""What a local Ray is started with."""

from rayllm.pipelines.local_ray import Crowd, crowded_raylet, lean_start

COMMAND = ["raylet", "--maximum_startup_concurrency=2.0", "--num_prestart_python_workers=2", "--head"]


def test_a_local_ray_has_no_processes_that_nobody_uses() -> None:
    from ray._private import node, parameter, services

    before = (node.Node.start_api_server, services.start_ray_process)
    with lean_start(Crowd()):
        lean = parameter.RayParams(num_cpus=1)
        assert node.Node.start_api_server != before[0]
    assert lean.no_monitor is True
    assert lean.include_log_monitor is False
    assert lean.num_cpus == 1
    assert parameter.RayParams().no_monitor is False  # as before, for whoever starts a Ray next
    assert (node.Node.start_api_server, services.start_ray_process) == before


def test_a_crowd_is_started_at_once_and_kept() -> None:
    command, variables = crowded_raylet(COMMAND, Crowd(beyond_cpus=3, modules=("json", "csv")))
    assert command == ["raylet", "--maximum_startup_concurrency=5", "--num_prestart_python_workers=5", "--head"]
    assert variables == {"RAY_num_workers_soft_limit": "5", "RAY_preload_python_modules": "json,csv"}


def test_without_a_crowd_a_raylet_starts_its_workers_as_ray_has_it() -> None:
    command, variables = crowded_raylet(COMMAND, Crowd())
    assert command == ["raylet", "--maximum_startup_concurrency=2", "--num_prestart_python_workers=2", "--head"]
    assert variables == {}
