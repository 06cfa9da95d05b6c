//! Values of which only the latest counts, such as how far a conversation has got, on their way to the streams of accounts.
//!
//! A stream has one slot for each kind of value and topic. What comes before the stream has taken the last one replaces it, so a
//! slow stream costs no more than its slots; of those it has a bounded number, and is told when it needed more. Nothing is kept
//! for who is not there, written to Postgres, or sent once for each member of something: accounts that have a stream on this
//! node follow topics here, and whoever hears of a topic publishes once. A single stream can watch topics, too, of which not
//! every watcher may be told everything: whoever hears of such a topic asks who may.

use std::collections::{HashMap, HashSet};
use std::mem::Discriminant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

/// Values that wait for one stream. One more, and all of them give way to the news that there were too many.
const SLOTS: usize = 1024;

/// The streams of this node. `V` is an enum: its variants are the kinds of values.
pub struct Latest<V>(Mutex<Index<V>>);

impl<V> Default for Latest<V> {
    fn default() -> Self {
        Self(Mutex::new(Index { accounts: HashMap::new(), followers: HashMap::new(), watchers: HashMap::new() }))
    }
}

struct Index<V> {
    accounts: HashMap<Uuid, Present<V>>,
    /// The accounts that follow a topic.
    followers: HashMap<Uuid, HashSet<Uuid>>,
    /// The streams that watch a topic, by where their slots are.
    watchers: HashMap<Uuid, HashMap<usize, Watcher<V>>>,
}

struct Watcher<V> {
    account_id: Uuid,
    slots: Arc<Slots<V>>,
    /// Whether it was told a value, or may have been.
    sees: bool,
}

/// An account that has streams here.
struct Present<V> {
    streams: Vec<Arc<Slots<V>>>,
    /// What it follows, and what it followed, each as of which of its events: its streams hear of them at different times.
    topics: HashMap<Uuid, (i64, bool)>,
}

struct Slots<V> {
    waiting: Mutex<Waiting<V>>,
    filled: Notify,
}

struct Waiting<V> {
    values: HashMap<(Uuid, Discriminant<V>), V>,
    overflowed: bool,
}

/// What waits for a stream.
#[derive(Debug, PartialEq)]
pub struct Taken<V> {
    /// The latest values, in no order.
    pub values: Vec<V>,
    /// There were more than there is room for. What they are of has to be read anew.
    pub overflowed: bool,
}

impl<V: Clone> Latest<V> {
    /// A stream of an account. It gets what is published from now on.
    pub fn stream(self: &Arc<Self>, account_id: Uuid) -> Stream<V> {
        let waiting = Mutex::new(Waiting { values: HashMap::new(), overflowed: false });
        let slots = Arc::new(Slots { waiting, filled: Notify::new() });
        let mut index = self.index();
        let present = index.accounts.entry(account_id);
        let present = present.or_insert_with(|| Present { streams: Vec::new(), topics: HashMap::new() });
        present.streams.push(Arc::clone(&slots));
        Stream { latest: Arc::clone(self), account_id, slots, watched: HashSet::new() }
    }

    /// Has an account's streams get what is published of a topic, or no longer, as long as it has one here. That is so since its
    /// event of this number; what is known of a later one stands.
    pub fn follow(&self, account_id: Uuid, topic: Uuid, follows: bool, since: i64) {
        let mut index = self.index();
        let Some(present) = index.accounts.get_mut(&account_id) else { return };
        let (known, _) = present.topics.get(&topic).copied().unwrap_or((i64::MIN, false));
        if known < since {
            index.decide(account_id, topic, since, follows);
        }
    }

    /// Has an account's streams get what is published of these topics and of no others, as it was read after its event of this
    /// number.
    pub fn follow_all(&self, account_id: Uuid, topics: &HashSet<Uuid>, since: i64) {
        let mut index = self.index();
        let Some(present) = index.accounts.get(&account_id) else { return };
        let known = &present.topics;
        let gone = known.iter().filter(|(topic, (_, follows))| *follows && !topics.contains(topic));
        let decided: Vec<_> =
            gone.map(|(topic, _)| (*topic, false)).chain(topics.iter().map(|id| (*id, true))).collect();
        let later = |topic: &Uuid| known.get(topic).is_some_and(|(known, _)| *known > since);
        let decided: Vec<_> = decided.into_iter().filter(|(topic, _)| !later(topic)).collect();
        for (topic, follows) in decided {
            index.decide(account_id, topic, since, follows);
        }
    }

    /// The topics that are followed.
    pub fn topics(&self) -> HashSet<Uuid> {
        self.index().followers.keys().copied().collect()
    }

    /// Gives a topic's latest value to the streams of all that follow it.
    pub fn publish(&self, topic: Uuid, value: &V) {
        let index = self.index();
        for account_id in index.followers.get(&topic).into_iter().flatten() {
            index.put(*account_id, topic, value);
        }
    }

    /// Gives a topic's latest value to the streams of one account.
    pub fn put(&self, account_id: Uuid, topic: Uuid, value: &V) {
        self.index().put(account_id, topic, value);
    }

    /// Whether a stream watches the topic.
    pub fn is_watched(&self, topic: Uuid) -> bool {
        self.index().watchers.contains_key(&topic)
    }

    /// The accounts with a stream that watches the topic.
    pub fn watchers(&self, topic: Uuid) -> Vec<Uuid> {
        let index = self.index();
        let watchers = index.watchers.get(&topic).into_iter().flat_map(HashMap::values);
        let accounts: HashSet<_> = watchers.map(|watcher| watcher.account_id).collect();
        accounts.into_iter().collect()
    }

    /// The topics that are watched.
    pub fn watched(&self) -> HashSet<Uuid> {
        self.index().watchers.keys().copied().collect()
    }

    /// Gives a topic's latest value to the streams that watch it, of these accounts: to all of them if it is `new`, else to
    /// those that had none. The others, if they had one, get `nothing` instead, once.
    pub fn tell(&self, topic: Uuid, accounts: &HashSet<Uuid>, value: &V, nothing: &V, new: bool) {
        let mut index = self.index();
        for watcher in index.watchers.get_mut(&topic).into_iter().flat_map(HashMap::values_mut) {
            let saw = std::mem::replace(&mut watcher.sees, accounts.contains(&watcher.account_id));
            match (saw, watcher.sees) {
                (true, false) => watcher.slots.put(topic, nothing),
                (false, true) => watcher.slots.put(topic, value),
                (true, true) if new => watcher.slots.put(topic, value),
                _ => {}
            }
        }
    }

    fn index(&self) -> MutexGuard<'_, Index<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> Index<V> {
    fn put(&self, account_id: Uuid, topic: Uuid, value: &V) {
        for slots in self.accounts.get(&account_id).into_iter().flat_map(|present| &present.streams) {
            slots.put(topic, value);
        }
    }
}

impl<V: Clone> Slots<V> {
    fn put(&self, topic: Uuid, value: &V) {
        self.waiting().put(topic, value);
        self.filled.notify_one();
    }
}

impl<V> Index<V> {
    fn decide(&mut self, account_id: Uuid, topic: Uuid, since: i64, follows: bool) {
        let Some(present) = self.accounts.get_mut(&account_id) else { return };
        present.topics.insert(topic, (since, follows));
        if follows {
            self.followers.entry(topic).or_default().insert(account_id);
        } else {
            self.forget(topic, account_id);
        }
    }

    fn forget(&mut self, topic: Uuid, account_id: Uuid) {
        if let Some(accounts) = self.followers.get_mut(&topic) {
            accounts.remove(&account_id);
            if accounts.is_empty() {
                self.followers.remove(&topic);
            }
        }
    }
}

impl<V> Slots<V> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> Waiting<V> {
    fn put(&mut self, topic: Uuid, value: &V) {
        let slot = (topic, std::mem::discriminant(value));
        if self.values.len() >= SLOTS && !self.values.contains_key(&slot) {
            self.values.clear();
            self.overflowed = true;
        }
        self.values.insert(slot, value.clone());
    }
}

/// The values for one stream of an account.
pub struct Stream<V> {
    latest: Arc<Latest<V>>,
    account_id: Uuid,
    slots: Arc<Slots<V>>,
    watched: HashSet<Uuid>,
}

impl<V: Clone> Stream<V> {
    /// Has this stream, and not the others of its account, get what is told of these topics ([`Latest::tell`]).
    pub fn watch(&mut self, topics: impl IntoIterator<Item = Uuid>) {
        let mut index = self.latest.index();
        for topic in topics {
            // What it will begin with is not known yet.
            let watcher = Watcher { account_id: self.account_id, slots: Arc::clone(&self.slots), sees: true };
            index.watchers.entry(topic).or_default().insert(place(&self.slots), watcher);
            self.watched.insert(topic);
        }
    }

    /// Gives this stream alone a value to begin with, or `nothing` of it, unless a newer one of that kind and topic waits.
    pub fn begin_with(&self, topic: Uuid, value: &V, nothing: bool) {
        let mut index = self.latest.index();
        let mut waiting = self.slots.waiting();
        if !waiting.values.contains_key(&(topic, std::mem::discriminant(value))) {
            waiting.put(topic, value);
            if let Some(watcher) = index.watchers.get_mut(&topic).and_then(|all| all.get_mut(&place(&self.slots))) {
                watcher.sees = !nothing;
            }
        }
        self.slots.filled.notify_one();
    }
}

/// What tells the slots of streams that are open apart.
fn place<V>(slots: &Arc<Slots<V>>) -> usize {
    Arc::as_ptr(slots).addr()
}

impl<V> Stream<V> {
    /// What waits.
    pub fn take(&self) -> Taken<V> {
        let mut waiting = self.slots.waiting();
        let overflowed = std::mem::take(&mut waiting.overflowed);
        Taken { values: std::mem::take(&mut waiting.values).into_values().collect(), overflowed }
    }

    /// Waits until something was published since the last `take`. May be dropped and called again.
    pub async fn filled(&self) {
        self.slots.filled.notified().await;
    }
}

impl<V> Drop for Stream<V> {
    fn drop(&mut self) {
        let mut index = self.latest.0.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in &self.watched {
            if let Some(watchers) = index.watchers.get_mut(topic) {
                watchers.remove(&place(&self.slots));
                if watchers.is_empty() {
                    index.watchers.remove(topic);
                }
            }
        }
        let Some(present) = index.accounts.get_mut(&self.account_id) else { return };
        present.streams.retain(|slots| !Arc::ptr_eq(slots, &self.slots));
        if present.streams.is_empty()
            && let Some(gone) = index.accounts.remove(&self.account_id)
        {
            gone.topics.into_keys().for_each(|topic| index.forget(topic, self.account_id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Value {
        Head(u64),
        Typing(&'static str),
    }

    fn ids<const N: usize>() -> [Uuid; N] {
        std::array::from_fn(|index| Uuid::from_u128(index as u128 + 1))
    }

    fn one(value: Value) -> Taken<Value> {
        Taken { values: vec![value], overflowed: false }
    }

    fn nothing() -> Taken<Value> {
        Taken { values: Vec::new(), overflowed: false }
    }

    #[test]
    fn a_slow_stream_gets_the_latest_value_of_each_kind_and_topic_once() {
        let [ann, bob, room, other] = ids();
        let latest = Arc::<Latest<Value>>::default();
        let (anns, annsecond, bobs) = (latest.stream(ann), latest.stream(ann), latest.stream(bob));
        latest.follow_all(ann, &HashSet::from([room, other]), 0);
        latest.follow(bob, room, true, 1);
        for head in 1..=1000 {
            latest.publish(room, &Value::Head(head));
        }
        latest.publish(room, &Value::Typing("bob"));
        latest.put(bob, other, &Value::Head(7));
        for stream in [&anns, &annsecond] {
            let taken = stream.take();
            assert!(taken.values.len() == 2 && !taken.overflowed, "{taken:?}");
            assert!(taken.values.contains(&Value::Head(1000)) && taken.values.contains(&Value::Typing("bob")));
            assert_eq!(stream.take(), nothing());
        }
        assert_eq!(bobs.take().values.len(), 3);
    }

    #[test]
    fn a_stream_that_needs_more_slots_than_there_are_is_told_and_keeps_none_too_many() {
        let [ann] = ids();
        let latest = Arc::<Latest<Value>>::default();
        let stream = latest.stream(ann);
        let topics = |count: usize| (0..count as u128).map(|topic| Uuid::from_u128(1 << 64 | topic));
        for topic in topics(SLOTS) {
            latest.put(ann, topic, &Value::Head(1));
        }
        // What has a slot already needs none.
        latest.put(ann, Uuid::from_u128(1 << 64), &Value::Head(2));
        let taken = stream.take();
        assert_eq!((taken.values.len(), taken.overflowed), (SLOTS, false));
        for topic in topics(SLOTS + 1) {
            latest.put(ann, topic, &Value::Head(3));
        }
        assert_eq!(stream.take(), Taken { values: vec![Value::Head(3)], overflowed: true });
        latest.put(ann, ann, &Value::Head(4));
        assert_eq!(stream.take(), one(Value::Head(4)));
    }

    #[test]
    fn who_does_not_follow_or_is_not_there_gets_nothing_and_leaves_nothing_behind() {
        let [ann, bob, room] = ids();
        let latest = Arc::<Latest<Value>>::default();
        latest.follow(ann, room, true, 1);
        let anns = latest.stream(ann);
        latest.publish(room, &Value::Head(1));
        assert_eq!(anns.take(), nothing(), "it followed before it had a stream");
        latest.follow(ann, room, true, 1);
        let bobs = latest.stream(bob);
        latest.publish(room, &Value::Head(2));
        assert_eq!((anns.take(), bobs.take()), (one(Value::Head(2)), nothing()));
        latest.follow(ann, room, false, 2);
        latest.publish(room, &Value::Head(3));
        assert_eq!(anns.take(), nothing());
        latest.follow(ann, room, true, 3);
        drop((anns, bobs));
        let index = latest.index();
        assert!(index.accounts.is_empty() && index.followers.is_empty());
    }

    #[test]
    fn what_a_stream_that_lags_says_of_a_topic_does_not_replace_what_is_known_since() {
        let [ann, room, other] = ids();
        let latest = Arc::<Latest<Value>>::default();
        let stream = latest.stream(ann);
        let follows = |topic| {
            latest.publish(topic, &Value::Head(1));
            stream.take() == one(Value::Head(1))
        };
        // One stream has heard that ann has left and joined again, and another hears only now that she has left.
        latest.follow(ann, room, true, 1);
        latest.follow(ann, room, false, 2);
        latest.follow(ann, room, true, 3);
        latest.follow(ann, room, false, 2);
        assert!(follows(room));
        // A stream begins with what there is after event 5, and hears of what was before.
        latest.follow_all(ann, &HashSet::from([other]), 5);
        latest.follow(ann, room, true, 4);
        latest.follow(ann, other, false, 5);
        assert!(!follows(room) && follows(other));
        // Another one has read that before event 6.
        latest.follow(ann, other, false, 6);
        latest.follow(ann, room, true, 7);
        latest.follow_all(ann, &HashSet::from([other]), 5);
        assert!(follows(room) && !follows(other));
    }

    #[test]
    fn only_streams_that_watch_and_whose_account_may_know_are_told() {
        let [ann, bob, eve, topic] = ids();
        let latest = Arc::<Latest<Value>>::default();
        let [mut anns, mut second, other, mut bobs] = [ann, ann, ann, bob].map(|account| latest.stream(account));
        for stream in [&mut anns, &mut second, &mut bobs] {
            stream.watch([topic, topic]);
        }
        let mut watchers = latest.watchers(topic);
        watchers.sort();
        assert_eq!((watchers, latest.is_watched(topic), latest.is_watched(ann)), (vec![ann, bob], true, false));
        for stream in [&anns, &second, &bobs] {
            stream.begin_with(topic, &Value::Head(0), true);
            assert_eq!(stream.take(), one(Value::Head(0)));
        }
        let tell = |accounts: &[Uuid], head, new| {
            let accounts = accounts.iter().copied().collect();
            latest.tell(topic, &accounts, &Value::Head(head), &Value::Head(0), new);
        };
        tell(&[ann, eve], 1, true);
        tell(&[ann], 2, true);
        for stream in [&anns, &second] {
            assert_eq!(stream.take(), one(Value::Head(2)));
        }
        assert_eq!((other.take(), bobs.take()), (nothing(), nothing()));
        drop(second);
        tell(&[ann, bob], 3, true);
        assert_eq!((anns.take(), bobs.take()), (one(Value::Head(3)), one(Value::Head(3))));
        // Who may know no longer is told so once, who may know again what there is, and nobody twice the same.
        tell(&[bob], 3, false);
        assert_eq!((anns.take(), bobs.take()), (one(Value::Head(0)), nothing()));
        tell(&[bob], 4, true);
        assert_eq!((anns.take(), bobs.take()), (nothing(), one(Value::Head(4))));
        tell(&[ann, bob], 4, false);
        assert_eq!((anns.take(), bobs.take()), (one(Value::Head(4)), nothing()));
        drop((anns, bobs, other));
        assert!(latest.index().watchers.is_empty() && latest.watchers(topic).is_empty());
    }

    #[test]
    fn what_a_stream_begins_with_does_not_replace_what_it_was_told_since() {
        let [ann, topic, other] = ids();
        let latest = Arc::<Latest<Value>>::default();
        let mut stream = latest.stream(ann);
        stream.watch([topic]);
        latest.tell(topic, &HashSet::from([ann]), &Value::Head(2), &Value::Head(0), true);
        stream.begin_with(topic, &Value::Head(1), false);
        stream.begin_with(other, &Value::Head(7), false);
        let taken = stream.take();
        assert!(
            taken.values.len() == 2 && taken.values.contains(&Value::Head(2)) && taken.values.contains(&Value::Head(7))
        );
        // It was hidden after what the stream begins with was read.
        let mut late = latest.stream(ann);
        late.watch([topic]);
        latest.tell(topic, &HashSet::new(), &Value::Head(3), &Value::Head(0), false);
        late.begin_with(topic, &Value::Head(2), false);
        assert_eq!(late.take(), one(Value::Head(0)));
    }

    #[tokio::test]
    async fn a_stream_that_waits_is_woken_also_by_what_came_before_it_waits() {
        let [ann, room] = ids();
        let latest = Arc::<Latest<Value>>::default();
        let stream = latest.stream(ann);
        latest.put(ann, room, &Value::Head(1));
        stream.filled().await;
        assert_eq!(stream.take(), one(Value::Head(1)));
        let (filled, ()) = tokio::join!(stream.filled(), async { latest.put(ann, room, &Value::Head(2)) });
        assert_eq!((filled, stream.take()), ((), one(Value::Head(2))));
    }
}
