//! Rate limits that hold across nodes.
//!
//! The generic cell rate algorithm (GCRA, ITU-T I.371): each subject has a theoretical arrival time that moves forward by
//! one interval a call, and may run ahead of the clock by the burst. It lives in Redis, on Redis's clock. A node takes a
//! hundredth of the burst at a time, so that a busy caller does not cost a round trip a call; what it takes is counted
//! when it is taken, so the limit is never exceeded.
//!
//! While Redis is away each node counts for itself, and limits that are marked so refuse every call.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::kernel::clock::Clock;
use crate::kernel::config::{self, Limit};
use crate::kernel::error::{Error, Reason};
use crate::kernel::redis::Redis;

/// All of them.
const ALL: [Rate; 8] = [
    Rate::Default,
    Rate::Write,
    Rate::Message,
    Rate::Authentication,
    Rate::Sensitive,
    Rate::Claim,
    Rate::ClaimPair,
    Rate::ClaimTarget,
];

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rate {
    /// Ordinary calls.
    Default,
    /// Calls that write.
    Write,
    /// Messages.
    Message,
    /// Proving who one is.
    Authentication,
    /// Sensitive calls; refused while Redis is away.
    Sensitive,
    /// Accounts whose prekeys somebody claims.
    Claim,
    /// Claims of one account's prekeys by another one.
    ClaimPair,
    /// Claims of one account's one-time prekeys, by whomever.
    ClaimTarget,
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An account.
    Account(Uuid),
    /// A client address; in IPv6 its network.
    Address(IpAddr),
    /// The account that a caller names without having proven to be it, or a pair of accounts: a hash of the name.
    Named([u8; 16]),
}

impl Subject {
    /// The subject of an address, with the IPv6 network that counts as one client.
    pub fn address(address: IpAddr, ipv6_prefix: u8) -> Self {
        Self::Address(network(address, ipv6_prefix))
    }
}

/// What counts as one client: an IPv4 address, an IPv6 network.
pub fn network(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.clamp(1, 128))).unwrap_or(u128::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
        v4 => v4,
    }
}

/// What a call left of its limit, for the `ratelimit-*` headers.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// How many calls the limit allows at once.
    pub limit: u32,
    /// How many of those are left.
    pub remaining: u32,
    /// When all of them are back.
    pub reset: Duration,
}

/// The limits of this node.
pub struct Rates {
    config: config::Rates,
    redis: Redis,
    clock: Clock,
    slots: Cache<(Rate, Subject), Arc<Mutex<Slot>>>,
}

/// What this node knows of a subject.
#[derive(Default)]
struct Slot {
    /// Calls that are counted in Redis already and not used yet.
    taken: u32,
    /// What Redis had left after that.
    left: u32,
    /// When the limit is whole again, in microseconds of the clock.
    whole_at: i64,
    /// Before this no call can be allowed, in microseconds of the clock.
    refused_until: i64,
    /// The theoretical arrival time while Redis is away, in microseconds of the clock.
    local: i64,
}

/// The answer of the algorithm, in calls and microseconds.
struct Granted {
    granted: u32,
    left: u32,
    retry_after: i64,
    whole_after: i64,
}

impl Rates {
    /// Limits as configured.
    pub fn new(config: config::Rates, redis: Redis, clock: Clock) -> Self {
        let slots = Cache::builder().max_capacity(500_000).time_to_idle(Duration::from_secs(600)).build();
        Self { config, redis, clock, slots }
    }

    /// Counts a call, or refuses it.
    pub async fn check(&self, rate: Rate, subject: Subject) -> Result<Allowance, Error> {
        let limit = self.limit(rate, subject);
        let slot = self.slots.get_with((rate, subject), Arc::default);
        let mut slot = slot.lock().await;
        let now = self.clock.now().timestamp_micros();

        if slot.taken == 0 && slot.refused_until <= now {
            let granted = match self.take(rate, subject, limit).await {
                Some(granted) => granted,
                None if rate == Rate::Sensitive => return Err(closed()),
                None => slot.take_locally(limit, now),
            };
            slot.taken = granted.granted;
            slot.left = granted.left;
            slot.whole_at = now + granted.whole_after;
            slot.refused_until = now + granted.retry_after;
        }
        if slot.taken == 0 {
            let after = u64::try_from(slot.refused_until - now).unwrap_or_default();
            return Err(
                Error::new(Reason::RateLimitExceeded, "too many calls").retry_after(Duration::from_micros(after))
            );
        }
        slot.taken -= 1;
        let reset = Duration::from_micros(u64::try_from(slot.whole_at - now).unwrap_or_default());
        Ok(Allowance { limit: limit.calls, remaining: slot.left + slot.taken, reset })
    }

    /// Forgets all that is counted of a subject.
    pub async fn forget(&self, subject: Subject) -> Result<(), Error> {
        let mut pipeline = redis::pipe();
        for rate in ALL {
            self.slots.invalidate(&(rate, subject));
            pipeline.cmd("DEL").arg(self.redis.name(&key(rate, subject))).ignore();
        }
        let away = |error| Error::new(Reason::ServiceUnavailable, "Redis is away").caused_by(error);
        self.redis.run(&pipeline).await.map_err(away)
    }

    /// The limit that counts a subject's calls.
    pub fn limit(&self, rate: Rate, subject: Subject) -> Limit {
        let limit = match (rate, subject) {
            (Rate::Default, Subject::Account(_)) => self.config.account,
            (Rate::Default, _) => self.config.anonymous,
            (Rate::Write, _) => self.config.write,
            (Rate::Message, _) => self.config.message,
            (Rate::Authentication, _) => self.config.authentication,
            (Rate::Sensitive, _) => self.config.sensitive,
            (Rate::Claim, _) => self.config.claim,
            (Rate::ClaimPair, _) => self.config.claim_pair,
            (Rate::ClaimTarget, _) => self.config.claim_target,
        };
        Limit { calls: limit.calls.saturating_mul(self.config.factor).max(1), seconds: limit.seconds.max(1) }
    }

    /// Takes calls from Redis; `None` while it is away.
    async fn take(&self, rate: Rate, subject: Subject, limit: Limit) -> Option<Granted> {
        let name = key(rate, subject);
        let mut pipeline = redis::pipe();
        let command = pipeline.cmd("EVAL").arg(SCRIPT).arg(1).arg(self.redis.name(&name));
        command.arg(limit.interval()).arg(limit.calls).arg((limit.calls / 100).max(1));
        match self.redis.run::<((u32, u32, i64, i64),)>(&pipeline).await {
            Ok(((granted, left, retry_after, whole_after),)) => {
                Some(Granted { granted, left, retry_after, whole_after })
            }
            Err(error) => {
                tracing::debug!(%error, "counting without Redis");
                None
            }
        }
    }
}

/// Where Redis counts a subject's calls.
fn key(rate: Rate, subject: Subject) -> String {
    match subject {
        Subject::Account(id) => format!("rate:{rate:?}:account:{id}"),
        Subject::Address(address) => format!("rate:{rate:?}:address:{address}"),
        Subject::Named(hash) => format!("rate:{rate:?}:named:{:032x}", u128::from_be_bytes(hash)),
    }
}

/// The refusal of what must be counted and can't be, because Redis is away.
pub fn closed() -> Error {
    Error::new(Reason::ServiceUnavailable, "this can't be counted now, and is refused until it can")
        .retry_after(Duration::from_secs(5))
}

impl Limit {
    /// Microseconds between calls at the steady rate.
    fn interval(self) -> i64 {
        (i64::from(self.seconds) * 1_000_000 / i64::from(self.calls)).max(1)
    }
}

impl Slot {
    /// The same algorithm on this node's clock, one call at a time.
    fn take_locally(&mut self, limit: Limit, now: i64) -> Granted {
        let (interval, burst) = (limit.interval(), i64::from(limit.calls));
        let arrival = self.local.max(now);
        let free = (now + burst * interval - arrival) / interval;
        if free < 1 {
            let retry_after = arrival + interval - burst * interval - now;
            return Granted { granted: 0, left: 0, retry_after, whole_after: arrival - now };
        }
        self.local = arrival + interval;
        let left = u32::try_from(free - 1).unwrap_or_default();
        Granted { granted: 1, left, retry_after: 0, whole_after: self.local - now }
    }
}

/// The algorithm in Redis: takes up to ARGV[3] calls of the ARGV[2] that may come at once, one every ARGV[1] microseconds.
/// Numbers are formatted because Lua would write large ones in exponent form.
const SCRIPT: &str = r"
local interval, burst, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local free = math.floor((now + burst * interval - arrival) / interval)
if free < 1 then
  return {0, 0, arrival + interval - burst * interval - now, arrival - now}
end
local granted = math.min(free, want)
arrival = arrival + granted * interval
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
return {granted, free - granted, 0, arrival - now}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_redis_a_burst_is_allowed_and_then_the_steady_rate() {
        let limit = Limit { calls: 10, seconds: 60 };
        let mut slot = Slot::default();
        let start = 1_700_000_000_000_000;
        for left in (0..10).rev() {
            assert_eq!(slot.take_locally(limit, start).left, left);
        }
        let refused = slot.take_locally(limit, start);
        assert_eq!((refused.granted, refused.retry_after), (0, 6_000_000));
        assert_eq!(slot.take_locally(limit, start + refused.retry_after).granted, 1);
        assert_eq!(slot.take_locally(limit, start + refused.retry_after).granted, 0);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_ipv4_address_is_itself() {
        let subject = |address: &str| Subject::address(address.parse().unwrap(), 64);
        assert_eq!(subject("2001:db8::1"), subject("2001:db8::ffff:0:0:2"));
        assert_ne!(subject("2001:db8::1"), subject("2001:db8:0:1::1"));
        assert_eq!(subject("::ffff:10.0.0.1"), subject("10.0.0.1"));
        assert_ne!(subject("10.0.0.1"), subject("10.0.0.2"));
    }
}
