/** A trial as the pages tell it: what all its probes say together, as the recommendation has it. */

/** Median and interval in tokens/s; null where there is no figure. */
export const speedOf = (trial) => trial.overall_tokens_per_second;

export const peakOf = (trial) => trial.overall_peak_bytes;

/** One that was stopped early and then confirmed has been measured after all. */
export const outcomeOf = (trial) => (trial.outcome === "outpaced" && trial.is_confirmed ? "measured" : trial.outcome);

/** Why it is what it is; what its first probe ended for is no news of one that was confirmed. */
export const reasonOf = (trial) => (outcomeOf(trial) === trial.outcome ? trial.reason : null);

/** Its first probe's figure, where further ones say other than that. */
export function firstOf(trial) {
  const [first, overall] = [trial.tokens_per_second, trial.overall_tokens_per_second];
  return first && overall && first.median !== overall.median ? first : null;
}
