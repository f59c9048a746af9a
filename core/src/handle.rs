//! Handles: names for things whose other half lives outside (sockets, connections, processes).
//!
//! A handle is a slot and a generation. An event for something that has gone does not find its
//! slot's new owner: it finds nothing, which the engine counts and ignores.

use std::{fmt, hash::Hash, hash::Hasher, marker::PhantomData};

use crate::planted::{Bug, is_planted};

/// Marks handles of UDP sockets towards upstreams.
#[derive(Debug)]
pub enum Socket {}
/// Marks handles of stream connections, from clients and to upstreams.
#[derive(Debug)]
pub enum Conn {}
/// Marks handles of HTTP exchanges, from clients and to upstreams.
#[derive(Debug)]
pub enum Exchange {}
/// Marks handles of plugin processes.
#[derive(Debug)]
pub enum Process {}

/// Names a UDP socket that the engine asked for.
pub type SocketHandle = Handle<Socket>;
/// Names a stream connection.
pub type ConnHandle = Handle<Conn>;
/// Names an HTTP exchange: one request and its response.
pub type ExchangeHandle = Handle<Exchange>;
/// Names a plugin process.
pub type ProcessHandle = Handle<Process>;

/// Marks handles of questions being asked upstream; they never leave the core.
#[derive(Debug)]
pub(crate) enum FetchKind {}
/// Names a question being asked upstream.
pub(crate) type FetchHandle = Handle<FetchKind>;

/// Marks handles of host names that stand for upstreams; they never leave the core.
#[derive(Debug)]
pub(crate) enum HostKind {}
/// Names a host name that stands for an upstream.
pub(crate) type HostHandle = Handle<HostKind>;

/// A listening socket: its place in [`ListenSettings::sockets`](crate::config::ListenSettings).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// A slot index and the generation of its owner, marked with what it names.
pub struct Handle<K> {
    index: u32,
    generation: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Handle<K> {
    /// The slot: below the bound of the table that gave the handle out, so usable as an array index.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl<K> Clone for Handle<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Handle<K> {}
impl<K> PartialEq for Handle<K> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}
impl<K> Eq for Handle<K> {}
impl<K> Hash for Handle<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (u64::from(self.index) << 32 | u64::from(self.generation)).hash(state);
    }
}
impl<K> fmt::Debug for Handle<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// An owned slot of a [`Slab`] or a [`Table`].
#[derive(Debug)]
struct Slot<V> {
    generation: u32,
    value: Option<V>,
}

impl<V> Slot<V> {
    /// Whether a handle of this generation names what is in the slot, or was in it last.
    fn is_of(&self, generation: u32) -> bool {
        self.generation == generation || is_planted(Bug::GenerationIgnored)
    }
}

/// Owner of values under handles that it gives out itself. Never holds more than its bound.
#[derive(Debug)]
pub struct Slab<K, V> {
    slots: Vec<Slot<V>>,
    free: Vec<u32>,
    len: usize,
    limit: usize,
    kind: PhantomData<fn() -> K>,
}

/// A [`Slab`] had reached its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {limit} places are taken")]
pub struct Full {
    /// The bound.
    pub limit: usize,
}

impl<K, V> Slab<K, V> {
    /// An empty slab for at most `limit` values. Allocates as it grows.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(u32::MAX as usize);
        Self { slots: Vec::new(), free: Vec::new(), len: 0, limit, kind: PhantomData }
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// The handles of all values.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle<K>> {
        self.iter().map(|(handle, _)| handle).collect()
    }

    /// Takes a value in.
    ///
    /// # Errors
    /// [`Full`] when the bound is reached; the value is dropped.
    pub fn insert(&mut self, value: V) -> Result<Handle<K>, Full> {
        self.insert_with(|_| value)
    }

    /// Takes a value in that wants to know its own name.
    ///
    /// # Errors
    /// [`Full`] when the bound is reached; no value is made.
    pub fn insert_with(&mut self, make: impl FnOnce(Handle<K>) -> V) -> Result<Handle<K>, Full> {
        if self.is_full() {
            return Err(Full { limit: self.limit });
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot { generation: 0, value: None });
                u32::try_from(self.slots.len() - 1).expect("the limit fits u32")
            }
        };
        let slot = &mut self.slots[index as usize];
        assert!(slot.value.is_none(), "a free slot is empty");
        let handle = Handle { index, generation: slot.generation, kind: PhantomData };
        slot.value = Some(make(handle));
        self.len += 1;
        Ok(handle)
    }

    /// The value, if the handle is alive.
    #[must_use]
    pub fn get(&self, handle: Handle<K>) -> Option<&V> {
        let slot = self.slots.get(handle.index())?;
        if slot.is_of(handle.generation) { slot.value.as_ref() } else { None }
    }

    /// The value, if the handle is alive.
    pub fn get_mut(&mut self, handle: Handle<K>) -> Option<&mut V> {
        let slot = self.slots.get_mut(handle.index())?;
        if slot.is_of(handle.generation) { slot.value.as_mut() } else { None }
    }

    /// Whether the handle is alive.
    #[must_use]
    pub fn contains(&self, handle: Handle<K>) -> bool {
        self.get(handle).is_some()
    }

    /// Gives the value out and ends its handle.
    pub fn remove(&mut self, handle: Handle<K>) -> Option<V> {
        let slot = self.slots.get_mut(handle.index())?;
        if !slot.is_of(handle.generation) {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(handle.index);
        self.len -= 1;
        Some(value)
    }

    /// How many values are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no value is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the bound is reached.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.limit
    }

    /// All handles and values, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Handle<K>, &V)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let index = u32::try_from(index).expect("the limit fits u32");
            let handle = Handle { index, generation: slot.generation, kind: PhantomData };
            slot.value.as_ref().map(|value| (handle, value))
        })
    }
}

/// The other side of a [`Slab`]: values of one's own under handles that someone else gave out.
///
/// The adapters keep their sockets in one. Grows to the highest slot ever seen, which the bound of
/// the slab limits.
#[derive(Debug)]
pub struct Table<K, V> {
    slots: Vec<Slot<V>>,
    kind: PhantomData<fn() -> K>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { slots: Vec::new(), kind: PhantomData }
    }
}

impl<K, V> Table<K, V> {
    /// Stores a value, and gives back what the slot held (of an older generation, or the same).
    pub fn insert(&mut self, handle: Handle<K>, value: V) -> Option<V> {
        while self.slots.len() <= handle.index() {
            self.slots.push(Slot { generation: 0, value: None });
        }
        let slot = &mut self.slots[handle.index()];
        slot.generation = handle.generation;
        slot.value.replace(value)
    }

    /// The value under this very handle.
    #[must_use]
    pub fn get(&self, handle: Handle<K>) -> Option<&V> {
        let slot = self.slots.get(handle.index())?;
        if slot.generation == handle.generation { slot.value.as_ref() } else { None }
    }

    /// The value under this very handle.
    pub fn get_mut(&mut self, handle: Handle<K>) -> Option<&mut V> {
        let slot = self.slots.get_mut(handle.index())?;
        if slot.generation == handle.generation { slot.value.as_mut() } else { None }
    }

    /// Takes the value out.
    pub fn remove(&mut self, handle: Handle<K>) -> Option<V> {
        let slot = self.slots.get_mut(handle.index())?;
        if slot.generation == handle.generation { slot.value.take() } else { None }
    }

    /// The values, by slot.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Takes all values out.
    pub fn drain(&mut self) -> impl Iterator<Item = V> {
        self.slots.drain(..).filter_map(|slot| slot.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list of all handles ever given out: whoever has ended is never found again,
        /// in the slab and in a table of the other side.
        #[test]
        fn handles_find_their_own_value_or_nothing(
            limit in 0_usize..6,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..80),
        ) {
            let mut slab: Slab<Socket, usize> = Slab::new(limit);
            let mut table = Table::default();
            let mut model: Vec<(SocketHandle, Option<usize>)> = Vec::new();
            for (number, (inserts, index)) in steps.into_iter().enumerate() {
                let held = model.iter().filter(|(_, value)| value.is_some()).count();
                if inserts {
                    let mut told = None;
                    let made = slab.insert_with(|handle| {
                        told = Some(handle);
                        number
                    });
                    prop_assert_eq!(made.ok(), told);
                    prop_assert_eq!(made.err(), (held == limit).then_some(Full { limit }));
                    if let Ok(handle) = made {
                        prop_assert!(handle.index() < limit);
                        prop_assert!(model.iter().all(|(known, _)| *known != handle));
                        table.insert(handle, number);
                        model.push((handle, Some(number)));
                    }
                } else if !model.is_empty() {
                    let at = index.index(model.len());
                    let (handle, value) = &mut model[at];
                    prop_assert_eq!(slab.remove(*handle), *value);
                    table.remove(*handle);
                    *value = None;
                }
                for (handle, value) in &model {
                    prop_assert_eq!(slab.get(*handle).copied(), *value);
                    prop_assert_eq!(slab.get_mut(*handle).copied(), *value);
                    prop_assert_eq!(slab.contains(*handle), value.is_some());
                    prop_assert_eq!(table.get(*handle).copied(), *value);
                    prop_assert_eq!(table.get_mut(*handle).copied(), *value);
                }
                let held: Vec<_> = model.iter().filter_map(|(_, value)| *value).collect();
                let mut seen: Vec<_> = slab.iter().map(|(_, value)| *value).collect();
                seen.sort_unstable();
                prop_assert_eq!(&seen, &held);
                prop_assert_eq!(slab.handles().len(), held.len());
                let sizes = (slab.len(), slab.is_empty(), slab.is_full());
                prop_assert_eq!(sizes, (held.len(), held.is_empty(), held.len() == limit));
            }
            prop_assert_eq!(table.drain().count(), slab.len());
            prop_assert_eq!(table.values().count(), 0);
        }
    }

    #[test]
    fn a_dead_handle_does_not_find_the_new_owner() {
        let mut slab: Slab<Socket, &str> = Slab::new(2);
        let first = slab.insert("first").expect("room");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second").expect("room");
        assert_eq!(first.index(), second.index());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn the_bound_holds() {
        let mut slab: Slab<Socket, u8> = Slab::new(1);
        let only = slab.insert(1).expect("room");
        assert_eq!(slab.insert(2), Err(Full { limit: 1 }));
        slab.remove(only);
        assert!(slab.insert(3).is_ok());
    }

    #[test]
    fn a_table_tells_generations_apart() {
        let mut slab: Slab<Conn, ()> = Slab::new(4);
        let mut table = Table::default();
        let old = slab.insert(()).expect("room");
        assert_eq!(table.insert(old, 'a'), None);
        slab.remove(old);
        let new = slab.insert(()).expect("room");
        assert_eq!(table.get(new), None);
        assert_eq!(table.insert(new, 'b'), Some('a'));
        assert_eq!(table.remove(old), None);
        assert_eq!(table.remove(new), Some('b'));
    }
}
