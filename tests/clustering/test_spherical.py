"""Spherical k-means: it climbs, it never loses a cluster, and it is the same for any number of processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run
from torch.nn.functional import normalize

from onevision_hf.clustering.matrix import RowFile, blocks, group_rows
from onevision_hf.clustering.spherical import State, lloyd, nearest, random_start, share_out
from onevision_hf.jobs.processes import Processes


def rows_around(centers=12, each=40, dim=16, spread=0.25, seed=0):
    generator = torch.Generator().manual_seed(seed)
    middle = normalize(torch.randn(centers, dim, generator=generator), dim=1)
    noise = torch.randn(centers * each, dim, generator=generator)
    return normalize(middle.repeat_interleave(each, 0) + spread * noise, dim=1)


def test_nearest_is_the_brute_force_answer():
    rows, centers = rows_around(), rows_around(seed=1)[:90]
    best, index = nearest(rows, centers)
    torch.testing.assert_close(best, (rows @ centers.T).max(1).values)
    assert torch.equal(index, (rows @ centers.T).argmax(1))


def test_the_objective_never_falls_and_ends_above_the_start():
    rows = rows_around()
    state = lloyd(rows, State(random_start(rows, 12)), 15)
    assert all(b >= a - 1e-6 for a, b in zip(state.objective, state.objective[1:], strict=False))
    assert state.objective[-1] > state.objective[0] + 0.02
    torch.testing.assert_close(state.centers.norm(dim=1), torch.ones(12))


def test_every_center_is_the_mean_direction_of_its_rows():
    rows = rows_around()
    state = lloyd(rows, State(random_start(rows, 12)), 40)
    _, index = nearest(rows, state.centers)
    for cluster in range(12):
        mean = normalize(rows[index == cluster].sum(0), dim=0)
        torch.testing.assert_close(state.centers[cluster], mean, atol=1e-4, rtol=0)


def test_clusters_that_lost_their_rows_take_half_of_the_largest():
    rows = rows_around()
    start = rows[:1].repeat(12, 1)  # all centers in one place: eleven are empty at once
    state = lloyd(rows, State(start), 25)
    assert state.reseeded[0] == 11
    assert torch.bincount(nearest(rows, state.centers)[1], minlength=12).min() > 0


def test_a_run_stopped_after_any_iteration_goes_on_as_if_it_had_not():
    rows = rows_around()
    start = random_start(rows, 9)
    whole = lloyd(rows, State(start), 8)
    for stop in (1, 5):
        resumed = lloyd(rows, lloyd(rows, State(start), stop), 8)
        assert torch.equal(resumed.centers, whole.centers) and resumed.objective == whole.objective


def test_more_clusters_than_rows_is_an_error():
    with pytest.raises(ValueError, match="500 clusters asked for, but there are 480 rows"):
        random_start(rows_around(), 500)


def test_the_objective_is_that_of_faiss():
    """Within 1 % from the same start and as many iterations (measured: equal to four digits)."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    rows = rows_around(40, 50, spread=0.4)
    start = random_start(rows, 30)
    ours = lloyd(rows, State(start), 10).centers
    kmeans = faiss.Kmeans(16, 30, niter=10, spherical=True, max_points_per_centroid=10**6)
    kmeans.train(rows.numpy(), init_centroids=start.numpy())
    theirs = nearest(rows, torch.from_numpy(kmeans.centroids))[0].mean()
    assert abs(nearest(rows, ours)[0].mean() - theirs) <= 0.01 * theirs


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(0, 1))
def test_clusters_are_shared_among_cells_in_proportion(sizes, where):
    sizes = torch.tensor(sizes)
    filled, total = int((sizes > 0).sum()), int(sizes.sum())
    if not filled:
        return
    clusters = round(filled + where * (total - filled))
    given_out = share_out(sizes, clusters)
    assert int(given_out.sum()) == clusters
    assert bool(((given_out > 0) == (sizes > 0)).all()) and bool((given_out <= sizes).all())


@settings(max_examples=25)
@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 2), st.integers(0, 99))
def test_grouping_writes_each_row_into_its_groups_in_order(tmp_path_factory, count, groups, copies, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(count * 4).view(count, 4).float()
    group_of = torch.randint(groups, (count, copies), generator=generator)
    path = tmp_path_factory.mktemp("groups") / "rows"
    file, begins, place_of = group_rows(rows, group_of, groups, path)
    for group in range(groups):
        expected = rows[(group_of == group).nonzero()[:, 0]]
        part = file.part(int(begins[group]), int(begins[group + 1]))
        found = torch.cat([block for _, block in blocks(part, 5)]) if len(part) else torch.zeros(0, 4)
        assert torch.equal(found, expected.half().float())
    if count:
        assert torch.equal(file.take(place_of[:, 0]), rows.half().float())


def test_a_row_file_that_ends_early_is_an_error(tmp_path):
    np.zeros(10, np.float16).tofile(tmp_path / "rows")
    with pytest.raises(OSError, match="ends early"):
        RowFile(tmp_path / "rows", 4, 4).read(0, 4)


def find_clusters(rows, folder):
    """What one of several processes finds; together they write the groups."""
    group = Processes.current()
    part = group.part(len(rows))
    own = rows[part.start : part.stop]
    start = random_start(own, 12, 3, group, part.start, len(rows))
    state = lloyd(own, State(start), 10)
    group_of = torch.arange(part.start, part.stop)[:, None] % 5
    group_rows(own, group_of, 5, folder / "groups", group)
    return start, state.centers, state.objective


def test_two_and_three_processes_find_what_one_finds(tmp_path):
    rows = rows_around(each=31)
    start = random_start(rows, 12, 3)
    alone = lloyd(rows, State(start), 10)
    group_rows(rows, torch.arange(len(rows))[:, None] % 5, 5, tmp_path / "groups")
    for size in (2, 3):
        folder = tmp_path / str(size)
        folder.mkdir()
        for first, centers, objective in run(find_clusters, rows, folder, size=size):
            assert torch.equal(first, start)
            torch.testing.assert_close(centers, alone.centers, atol=1e-5, rtol=0)
            np.testing.assert_allclose(objective, alone.objective, rtol=1e-6)
        assert (folder / "groups").read_bytes() == (tmp_path / "groups").read_bytes()
