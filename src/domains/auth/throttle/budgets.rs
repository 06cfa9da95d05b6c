//! Counters of failures in Redis: how they count, and when they let somebody try again.
//!
//! A counter is a field of a hash, `failures:until`, in milliseconds of Redis's clock, which is the same for all nodes. An
//! attempt is counted as a failure before anything is compared, in one script together with the question whether it may be
//! made: many at once get no more attempts than one after the other. What came of it is settled afterwards.

use crate::kernel::config;
use crate::kernel::error::Error;
use crate::kernel::rates::closed;
use crate::kernel::redis::Redis;

/// How a counter answers failures: without a delay, with growing delays, with a lock. In milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    free: u32,
    first_delay: u64,
    max_delay: u64,
    /// None: there is no lock.
    max_failures: Option<u32>,
    lock: u64,
    forget: u64,
}

impl Schedule {
    /// Of an account, for clients that it does not know.
    pub fn account(config: &config::Throttle) -> Self {
        Self::new(config, config.account_free_failures, Some(config.account_max_failures))
    }

    /// Of such a client.
    pub fn pair(config: &config::Throttle) -> Self {
        Self::new(config, config.pair_free_failures, None)
    }

    /// Of a device that an account knows, and of a session.
    pub fn device(config: &config::Throttle) -> Self {
        Self::new(config, config.device_free_failures, Some(config.device_max_failures))
    }

    /// Of an address, for all accounts.
    pub fn address(config: &config::Throttle) -> Self {
        Self {
            max_delay: millis(config.address_max_delay_seconds),
            forget: millis(config.address_forget_seconds),
            ..Self::new(config, config.address_free_failures, None)
        }
    }

    fn new(config: &config::Throttle, free: u32, max_failures: Option<u32>) -> Self {
        Self {
            free,
            first_delay: millis(config.first_delay_seconds),
            max_delay: millis(config.max_delay_seconds),
            max_failures,
            lock: millis(config.lock_seconds),
            forget: millis(config.forget_seconds),
        }
    }

    /// Whether so many failures lock.
    pub fn locks(&self, failures: u32) -> bool {
        self.max_failures.is_some_and(|most| failures >= most)
    }

    /// Whether the last of so many failures was the first that delays the next attempt.
    pub fn begins_to_delay(&self, failures: u32) -> bool {
        failures == self.free
    }

    /// Failures without a delay.
    pub fn free(&self) -> u32 {
        self.free
    }
}

fn millis(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

/// A counter that an attempt meets.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The hash.
    pub key: String,
    /// Its field.
    pub field: String,
    /// How it answers failures.
    pub schedule: Schedule,
}

/// What a counter said to an attempt that it has counted. Times are milliseconds of Redis's clock.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Failures, this attempt among them.
    pub failures: u32,
    /// When the next attempt may be made.
    pub until: i64,
    /// When the failures before it began to be forgotten.
    since: i64,
}

/// Whether an attempt may be made.
pub enum Answer {
    /// It may, and was counted.
    Go(Vec<Counted>),
    /// Not before `until`; nothing was counted. Both in milliseconds of Redis's clock.
    Refused { now: i64, until: i64 },
}

/// What came of an attempt that was not a failure.
#[derive(Clone, Copy, PartialEq)]
pub enum Outcome {
    /// The first budget is forgotten, with what it has contributed to the others.
    Succeeded,
    /// It was never made.
    Undone,
}

/// Counts an attempt in `budgets`, unless one of them or of `asked` refuses it.
pub async fn attempt(redis: &Redis, budgets: &[Budget], asked: Option<&Budget>) -> Result<Answer, Error> {
    let all = || budgets.iter().chain(asked);
    let mut pipeline = redis::pipe();
    let command = pipeline.cmd("EVAL").arg(ATTEMPT).arg(all().count());
    for budget in all() {
        command.arg(redis.name(&budget.key));
    }
    command.arg(budgets.len());
    for Budget { field, schedule, .. } in all() {
        command.arg(field).arg(schedule.free).arg(schedule.first_delay).arg(schedule.max_delay);
        command.arg(schedule.max_failures.unwrap_or_default()).arg(schedule.lock).arg(schedule.forget);
    }
    let (answer,) =
        redis.run::<((i64, i64, Vec<(u32, i64, i64)>),)>(&pipeline).await.map_err(|error| uncounted(redis, &error))?;
    let (now, until, counted) = answer;
    if until > now {
        return Ok(Answer::Refused { now, until });
    }
    let counted = counted.into_iter().map(|(failures, until, since)| Counted { failures, until, since });
    Ok(Answer::Go(counted.collect()))
}

/// Settles an attempt that was counted.
pub async fn settle(redis: &Redis, budgets: &[Budget], counted: &[Counted], outcome: Outcome) -> Result<(), Error> {
    let mut pipeline = redis::pipe();
    let command = pipeline.cmd("EVAL").arg(SETTLE).arg(budgets.len());
    for budget in budgets {
        command.arg(redis.name(&budget.key));
    }
    command.arg(u8::from(outcome == Outcome::Succeeded));
    for (budget, counted) in budgets.iter().zip(counted) {
        command.arg(&budget.field).arg(counted.until).arg(counted.since);
    }
    redis.run::<((),)>(&pipeline).await.map(drop).map_err(|error| uncounted(redis, &error))
}

/// Forgets hashes with all their counters.
pub async fn forget(redis: &Redis, keys: &[String]) -> Result<(), Error> {
    let mut pipeline = redis::pipe();
    let command = pipeline.cmd("DEL");
    for key in keys {
        command.arg(redis.name(key));
    }
    redis.run::<(i64,)>(&pipeline).await.map(drop).map_err(|error| uncounted(redis, &error))
}

/// What can't be counted is refused: while Redis is away nobody guesses. That it is away has been logged.
fn uncounted(redis: &Redis, error: &redis::RedisError) -> Error {
    if redis.is_available() {
        tracing::error!(%error, "failed attempts can't be counted");
    }
    closed()
}

/// ARGV: how many of the KEYS count; then for each its field, free failures, first and longest delay, failures that lock,
/// lock, and after how long one failure is forgotten. Answers the time, until when the attempt is refused (0: it is not), and
/// failures, until and since of those that have counted it. A hash lives until everything in it is forgotten. Numbers are
/// formatted because Lua would write large ones in exponent form.
const ATTEMPT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local blocked, before = 0, {}
for i, key in ipairs(KEYS) do
  local field, forget = ARGV[i * 7 - 5], tonumber(ARGV[i * 7 + 1])
  local failures, till = string.match(redis.call('HGET', key, field) or '0:0', '^(%d+):(%d+)$')
  failures, till = tonumber(failures), tonumber(till)
  local forgotten = math.max(math.floor((now - till) / forget), 0)
  before[i] = {math.max(failures - forgotten, 0), till + forgotten * forget}
  blocked = math.max(blocked, till)
end
if blocked > now then return {now, blocked, {}} end
local counted = {}
for i = 1, tonumber(ARGV[1]) do
  local a = i * 7 - 5
  local free, first, longest = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local most, lock, forget = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6])
  local failures, delay = before[i][1] + 1, 0
  if most > 0 and failures >= most then
    delay = math.min(lock * 2 ^ (failures - most), 3155760000000)
  elseif failures >= free then
    delay = math.min(first * 2 ^ (failures - free), longest)
  end
  redis.call('HSET', KEYS[i], ARGV[a], string.format('%d:%.0f', failures, now + delay))
  local life = delay + failures * forget
  if redis.call('PTTL', KEYS[i]) < life then
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', life))
  end
  counted[i] = {failures, now + delay, before[i][2]}
end
return {now, 0, counted}
";

/// ARGV: whether it succeeded; then for each of the KEYS its field, and until and since of the attempt. A delay that the
/// attempt itself has brought ends; one that others have brought meanwhile stays.
const SETTLE: &str = r"
local less = 1
for i, key in ipairs(KEYS) do
  local a = i * 3 - 1
  local failures, till = string.match(redis.call('HGET', key, ARGV[a]) or '0:0', '^(%d+):(%d+)$')
  if i == 1 and ARGV[1] == '1' then less = tonumber(failures) end
  failures = tonumber(failures) - less
  if failures <= 0 then
    redis.call('HDEL', key, ARGV[a])
  elseif less > 0 then
    if till == ARGV[a + 1] then till = ARGV[a + 2] end
    redis.call('HSET', key, ARGV[a], string.format('%d:%s', failures, till))
  end
end
";
