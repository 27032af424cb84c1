"""Forward-backward and Viterbi against the enumeration of all paths of tiny chains."""

from itertools import pairwise, product

import numpy as np
import pytest

from d2vpr_hf.sequences.hidden_markov import best_path, forward_step, normalise, smooth

SIZES = [(2, 3, 2), (1, 4, 1, 2), (3,), (2, 2, 2, 2, 2)]


def draw_chain(sizes, seed, zero_share=0.0):
    rng = np.random.default_rng(seed)
    prior = np.log(rng.uniform(0.1, 1, sizes[0]))
    emissions = [np.log(rng.uniform(0.01, 1, size)) for size in sizes]
    transitions = []
    for before, after in pairwise(sizes):
        transition = np.log(rng.uniform(0.01, 1, (before, after)))
        transition[rng.random(transition.shape) < zero_share] = -np.inf
        transition[:, 0] = np.log(0.1)  # a path is always possible
        transitions.append(transition)
    return prior, transitions, emissions


def all_paths(prior, transitions, emissions):
    """Yield each path with its log probability."""
    for path in product(*(range(len(emission)) for emission in emissions)):
        score = prior[path[0]] + sum(emission[state] for emission, state in zip(emissions, path, strict=True))
        yield path, score + sum(moves[a, b] for moves, a, b in zip(transitions, path[:-1], path[1:], strict=True))


def forward(prior, transitions, emissions):
    beliefs = [normalise(prior + emissions[0])]
    for transition, emission in zip(transitions, emissions[1:], strict=True):
        beliefs.append(forward_step(beliefs[-1], transition, emission))
    return beliefs


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("zero_share", [0.0, 0.6])
def test_posteriors_and_the_best_path_are_those_of_all_paths(sizes, zero_share):
    chain = draw_chain(sizes, seed=len(sizes), zero_share=zero_share)
    paths = list(all_paths(*chain))
    weights = np.exp([score for _, score in paths])
    beliefs = forward(*chain)
    posteriors = smooth(beliefs, *chain[1:])
    for frame, size in enumerate(sizes):
        expected = [
            sum(w for (path, _), w in zip(paths, weights, strict=True) if path[frame] == state) for state in range(size)
        ]
        assert np.exp(posteriors[frame]) == pytest.approx(np.array(expected) / weights.sum(), abs=1e-12)
    prefix = list(all_paths(chain[0], chain[1][:1], chain[2][:2]))
    last = np.array(
        [sum(np.exp(score) for path, score in prefix if path[-1] == state) for state in range(len(chain[2][:2][-1]))]
    )
    assert np.exp(beliefs[min(1, len(sizes) - 1)]) == pytest.approx(last / last.sum(), abs=1e-12)
    assert tuple(best_path(chain[0] + chain[2][0], chain[1], chain[2][1:])) == max(paths, key=lambda item: item[1])[0]


def test_very_small_probabilities_do_not_vanish():
    """A product of 500 probabilities of exp(-700) is 0 in float64."""
    emissions = [np.array([-700.0, -701.0])] * 500
    transitions = [np.log(np.array([[0.9, 0.1], [0.1, 0.9]]))] * 499
    posteriors = smooth(forward(np.log([0.5, 0.5]), transitions, emissions), transitions, emissions)
    assert all(np.exp(posterior).sum() == pytest.approx(1) and posterior[0] > posterior[1] for posterior in posteriors)
    assert best_path(emissions[0], transitions, emissions[1:]) == [0] * 500


def test_impossible_frames_are_an_error():
    with pytest.raises(ValueError, match="No state is possible"):
        normalise(np.array([-np.inf, -np.inf]))
