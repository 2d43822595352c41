"""The cost of a step, from the table's statistics alone, is the kernel's divergence."""

import pytest

from nelbo.diffusion.decoder import to_unit
from nelbo.diffusion.draws import chain_draws
from nelbo.diffusion.gaussian import diffuse
from nelbo.time_schedule.costs import costs
from nelbo.time_schedule.optimise import schedule_of

from fixtures.schedule_cases import N_IMAGES, N_LEVELS, cases


@cases
def test_edge_costs_are_the_kernels_divergences(gathered, model_name, reverse):
    """Against step_kl itself, averaged over the images of the table, for every pair of levels."""
    model, images, table = gathered(model_name)
    graph = costs(table, reverse)
    _, eps = chain_draws(range(N_IMAGES), model.image_shape, 0)
    for s, t in [(1, 2), (1, N_LEVELS), (5, 6), (3, 9)]:
        schedule = schedule_of(table, graph, [0, s, t])
        gamma_s, gamma_t = table.gammas[[s - 1, t - 1]][:, None].expand(2, N_IMAGES)
        eps_hat, nu = model.predict(diffuse(to_unit(images), eps, gamma_t), gamma_t)
        nats = schedule.kernel(len(schedule.gammas) - 2).step_kl(eps - eps_hat, gamma_s, gamma_t, nu).mean().item()
        assert graph.edges[s, t] == pytest.approx(nats, rel=3e-4 if reverse == "learned-range" else 1e-5)
