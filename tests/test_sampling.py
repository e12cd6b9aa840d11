"""What `make test` leaves out, no test function and no case that is not one of many; and what it runs first."""

from pathlib import Path

from tests.sampling import LONG, SAMPLE, is_long, left_out


def cases(function: str, *names: object) -> list[str]:
    return [f"{function}[{name}]" for name in names]


def test_small_matrix_is_run_whole() -> None:
    """So is a test without cases."""
    assert not left_out(["a.py::test_a", *cases("a.py::test_b", *range(SAMPLE))])


def test_large_matrix_is_sampled_evenly() -> None:
    """The same cases each time, from the first to near the last."""
    names = cases("a.py::test_a", *range(10 * SAMPLE))
    kept = [name for name in names if name not in left_out(names)]
    assert kept == cases("a.py::test_a", *range(0, 10 * SAMPLE, 10))


def test_case_on_the_other_loop_is_left_out_if_the_first_has_it() -> None:
    """What runs on asyncio's loop alone is run."""
    names = cases("a.py::test_a", "uvloop", "asyncio") + cases("a.py::test_b", "asyncio") + cases("a.py::test_c", "x-1")
    names += cases("a.py::test_d", "2-uvloop-x", "2-asyncio-x", "asyncio-only")
    assert left_out(names) == {"a.py::test_a[asyncio]", "a.py::test_d[2-asyncio-x]"}


def test_no_function_is_left_out() -> None:
    """However many cases it has."""
    names = cases("a.py::test_a", *(f"{loop}-{number}" for number in range(500) for loop in ("uvloop", "asyncio")))
    assert len(names) - len(left_out(names)) == SAMPLE


def test_long_tests_are_there() -> None:
    """One that was moved would come late again."""
    assert [path for path in LONG if not (Path(__file__).parents[1] / path).exists()] == []
    assert is_long("tests/soak/test_soak.py::test_a[1]")
    assert not is_long("tests/test_sampling.py::test_long_tests_are_there")
