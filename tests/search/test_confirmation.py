import pytest

from autotune.search.confirmation import (
    ROUNDS,
    Contender,
    best_first,
    by_length,
    due_at_other_lengths,
    headline,
    is_tie,
    next_to_confirm,
    ranked,
    speedup,
)
from trials.contract.config import TrainingConfig
from trials.contract.messages import Estimate, ProbeResult
from trials.contract.outcome import Outcome, Phase

USABLE = 1000


def result(speed, peak=500, outcome=Outcome.MEASURED):
    estimate = Estimate(median=speed, low=speed * 0.98, high=speed * 1.02) if speed else None
    return ProbeResult(
        probe_id="p", outcome=outcome, phase=Phase.DONE, tokens_per_second=estimate, peak_bytes=peak
    )


def contender(trial, *speeds, peak=500, length=64):
    config = TrainingConfig(micro_batch_size=trial + 1, sequence_length=length)
    return Contender(trial, config, {i: result(s, peak) for i, s in enumerate(speeds)}, USABLE)


def run_confirmation(speeds, baseline):
    """Confirm until done; each contender always measures what `speeds` says. Returns the order of trials."""
    results = {trial: {0: result(speed)} for trial, speed in speeds.items()}
    order = []
    while True:
        field = [
            Contender(t, TrainingConfig(micro_batch_size=t + 1), r, USABLE)
            for t, r in sorted(results.items())
        ]
        due = next_to_confirm(field, field[baseline])
        if due is None:
            return order
        order.append(due.trial)
        results[due.trial][due.next_repeat] = result(speeds[due.trial])


def test_winner_runner_up_and_baseline_are_interleaved():
    assert run_confirmation({0: 50, 1: 100, 2: 90, 3: 80}, baseline=0) == [1, 2, 0] * ROUNDS


def test_a_baseline_that_leads_is_confirmed_once_like_any_other():
    assert run_confirmation({0: 100, 1: 90, 2: 80}, baseline=0) == [0, 1] * ROUNDS


def test_who_fails_its_confirmation_makes_room():
    failed = contender(0, 100.0)
    failed = Contender(
        0, failed.config, {0: result(100), 1: result(0, outcome=Outcome.OUT_OF_MEMORY)}, USABLE
    )
    second, third = contender(1, 90), contender(2, 80)
    assert next_to_confirm([failed, second, third], None) is second
    assert [c.trial for c in ranked([failed, second, third])] == [1, 2]


def test_a_confirmation_above_the_usable_memory_disqualifies():
    swollen = Contender(0, TrainingConfig(), {0: result(100), 1: result(100, peak=USABLE + 1)}, USABLE)
    assert not swollen.holds


def test_who_falls_behind_in_its_confirmations_is_overtaken():
    lucky, steady, third = contender(0, 100, 60, 60, 60), contender(1, 90, 90, 90, 90), contender(2, 80)
    assert next_to_confirm([lucky, steady, third], None) is None
    assert [c.trial for c in ranked([lucky, steady, third])] == [1, 0, 2]


def test_the_figure_by_which_a_winner_was_selected_is_not_the_one_that_is_quoted():
    assert contender(0, 130, 100, 101, 102).tokens_per_second.median == 101


def test_a_crash_while_confirming_does_not_unmake_a_measurement():
    crashed = result(0, peak=None, outcome=Outcome.CRASHED)
    measured = contender(0, 100, 90, 91)
    shaken = Contender(0, measured.config, {**measured.results, 3: crashed}, USABLE)
    assert shaken.holds
    assert next_to_confirm([shaken], None) is shaken
    broken = Contender(0, measured.config, {0: result(100), 1: crashed, 2: crashed, 3: crashed}, USABLE)
    assert broken.holds
    assert not broken.is_confirmed
    assert next_to_confirm([broken], None) is None
    assert broken.tokens_per_second.median == 100


def test_an_unconfirmed_one_ties_by_its_first_probe():
    winner = contender(0, 120, 100, 95, 105)
    assert is_tie(winner, contender(1, 118))
    assert not is_tie(winner, contender(1, 60))


def test_equal_speed_goes_to_the_one_with_memory_to_spare():
    assert [c.trial for c in ranked([contender(0, 100, peak=900), contender(1, 100, peak=400)])] == [1, 0]


def test_only_the_longest_length_that_holds_competes():
    short, long = contender(0, 200, length=64), contender(1, 50, length=128)
    assert [c.trial for c in headline([short, long])] == [1]


def test_the_fastest_of_every_other_length_is_confirmed_when_the_headline_is():
    short, shorter = contender(0, 200, length=64), contender(1, 190, length=64)
    long, longer = contender(2, 50, length=128), contender(3, 45, length=128)
    begun, done = contender(4, 40, 40, 40, length=256), contender(4, 40, 40, 40, 40, length=256)
    assert next_to_confirm([short, shorter, long, longer, begun], begun) is begun
    assert next_to_confirm([short, shorter, long, longer, done], done) is short
    halfway = contender(0, 200, 200, length=64)
    assert next_to_confirm([halfway, shorter, long, longer, done], done) is long
    confirmed = [contender(0, *[200] * 4, length=64), contender(2, *[50] * 4, length=128)]
    assert next_to_confirm([*confirmed, shorter, longer, done], done) is None


def test_a_length_where_nothing_survives_is_given_up():
    """Else the confirmations of what is recommended would have to wait for all of it."""
    out = result(0, outcome=Outcome.OUT_OF_MEMORY)
    failed = [Contender(n, contender(n, 90).config, {0: result(90), 1: out}, USABLE) for n in (0, 1)]
    third, headline_one = contender(2, 80), contender(3, *[40] * 4, length=128)
    assert due_at_other_lengths([failed[0], third, headline_one]) == [third]
    assert due_at_other_lengths([*failed, third, headline_one]) == []


def test_speedup_is_taken_round_by_round():
    """A machine that halves its speed between rounds does not touch the ratio."""
    winner, baseline = contender(1, 120, 200, 100, 150), contender(0, 10, 100, 50, 75)
    assert speedup(winner, baseline).median == pytest.approx(2.0)
    assert speedup(winner, baseline).low == pytest.approx(2.0)


def test_the_baseline_against_itself_is_one():
    own = contender(0, 100, 90, 110)
    assert speedup(own, own) == Estimate(median=1.0, low=1.0, high=1.0)


def test_ties_are_closer_than_the_spread_of_their_probes():
    noisy = contender(0, 100, 90, 110, 100)
    assert is_tie(noisy, contender(1, 97, 99, 96, 98))
    assert not is_tie(contender(0, 100, 100, 100, 100), contender(1, 97, 97, 97, 97))


def test_among_ties_within_two_percent_memory_to_spare_decides():
    fast = contender(0, 100, 100, 101, 99, peak=900)
    lean = contender(1, 99, 99, 100, 98.5, peak=300)
    slower = contender(2, 95, 95, 102, 88, peak=100)  # its probes do not tell it apart, but one would mind
    assert [c.trial for c in best_first([fast, lean, slower])] == [1, 0, 2]


def test_the_longest_length_that_is_fast_enough_is_the_headline():
    short, middle, long = (
        contender(0, 100, length=64),
        contender(1, 80, length=128),
        contender(2, 40, length=256),
    )
    field = [short, middle, long]
    assert headline(field)[0] is long
    assert headline(field, 0.4)[0] is long
    assert headline(field, 0.5)[0] is middle
    assert headline(field, 0.9)[0] is short
    assert list(by_length(field)) == [64, 128, 256]
    assert headline([], 0.5) == []


def test_whose_rivals_fall_behind_its_first_probe_is_confirmed_too():
    """Else two lucky first probes would keep a faster third from being looked at."""
    lucky, other = contender(0, 110, 95, 95, 95), contender(1, 108, 94, 94, 94)
    third, fourth = contender(2, 107), contender(3, 90)
    assert next_to_confirm([lucky, other, third, fourth], None) is third
    held_up = contender(2, 107, 106, 106, 106)
    assert next_to_confirm([lucky, other, held_up, fourth], None) is None
    assert ranked([lucky, other, held_up, fourth])[0] is held_up


def test_one_that_was_outpaced_is_no_tie_whatever_two_steps_say():
    wide = Estimate(median=85.5, low=68.8, high=106.2)
    cut_short = ProbeResult(
        probe_id="p", outcome=Outcome.OUTPACED, phase=Phase.DONE, tokens_per_second=wide, peak_bytes=500
    )
    outpaced = Contender(1, TrainingConfig(micro_batch_size=2), {0: cut_short}, USABLE)
    assert not is_tie(contender(0, 100), outpaced)
