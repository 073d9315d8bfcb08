//! The part of `crossbeam-channel` that the client uses.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ossec_broker::proto::time::Time;
use shuttle::rand::Rng;

use crate::world::{World, thread_rng};

/// The state of a channel. See [`World`] for why no thread waits for its lock.
#[derive(Debug)]
struct Channel<T> {
    queue: Mutex<VecDeque<T>>,
    places: usize,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Source<T>);

#[derive(Debug)]
enum Source<T> {
    Channel(Arc<Channel<T>>),
    Never,
    /// Something comes at this moment.
    At(Time),
}

#[derive(Debug)]
pub(crate) struct SendError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecvError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TryRecvError {
    Empty,
    Disconnected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvTimeoutError {
    Timeout,
    Disconnected,
}

/// A channel with so many places. A channel without places can only be closed: `Infallible` is sent through it.
pub(crate) fn bounded<T>(places: usize) -> (Sender<T>, Receiver<T>) {
    let (queue, one) = (Mutex::new(VecDeque::new()), || AtomicUsize::new(1));
    let channel = Arc::new(Channel { queue, places, senders: one(), receivers: one() });
    (Sender(Arc::clone(&channel)), Receiver(Source::Channel(channel)))
}

pub(crate) fn never<T>() -> Receiver<T> {
    Receiver(Source::Never)
}

pub(crate) fn after(wait: Duration) -> Receiver<Time> {
    Receiver(Source::At(World::here().seen() + wait))
}

impl<T> Channel<T> {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.queue.lock().expect("nobody panics with it")
    }

    fn is_closed(&self) -> bool {
        self.senders.load(Ordering::Relaxed) == 0
    }
}

impl<T> Sender<T> {
    fn push(&self, value: T) {
        self.0.queue().push_back(value);
        World::here().notify();
    }

    pub(crate) fn try_send(&self, value: T) -> Result<(), SendError> {
        World::here().step();
        let full = self.0.queue().len() >= self.0.places;
        if full || self.0.receivers.load(Ordering::Relaxed) == 0 {
            return Err(SendError);
        }
        self.push(value);
        Ok(())
    }

    pub(crate) fn send(&self, value: T) -> Result<(), SendError> {
        let gone = World::here().sleep(None, || {
            let gone = self.0.receivers.load(Ordering::Relaxed) == 0;
            (gone || self.0.queue().len() < self.0.places).then_some(gone)
        });
        if gone != Some(false) {
            return Err(SendError);
        }
        self.push(value);
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        World::here().step();
        let Source::Channel(channel) = &self.0 else { return Err(TryRecvError::Empty) };
        let value = channel.queue().pop_front();
        match value {
            Some(value) => {
                World::here().notify();
                Ok(value)
            }
            None if channel.is_closed() => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    pub(crate) fn recv_timeout(&self, wait: Duration) -> Result<T, RecvTimeoutError> {
        match wait_for(&[self], Some(wait)) {
            None => Err(RecvTimeoutError::Timeout),
            Some(_) => self.take().map_err(|RecvError| RecvTimeoutError::Disconnected),
        }
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    /// Takes the value that [`wait_for`] has found.
    pub(crate) fn take(&self) -> Result<T, RecvError> {
        let Source::Channel(channel) = &self.0 else { return Err(RecvError) };
        let value = channel.queue().pop_front();
        World::here().notify();
        value.ok_or(RecvError)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::Relaxed) == 1 {
            World::here().notify();
        }
        World::here().step();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Source::Channel(channel) => {
                channel.receivers.fetch_add(1, Ordering::Relaxed);
                Source::Channel(Arc::clone(channel))
            }
            Source::Never => Source::Never,
            Source::At(at) => Source::At(*at),
        })
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if let Source::Channel(channel) = &self.0
            && channel.receivers.fetch_sub(1, Ordering::Relaxed) == 1
        {
            World::here().notify();
        }
    }
}

/// A source that a thread can wait for together with others.
pub(crate) trait Wait {
    fn is_ready(&self) -> bool;
    fn alarm(&self) -> Option<Time>;
}

impl<T> Wait for Receiver<T> {
    fn is_ready(&self) -> bool {
        match &self.0 {
            Source::Channel(channel) => !channel.queue().is_empty() || channel.is_closed(),
            Source::Never => false,
            Source::At(at) => *at <= World::here().time(),
        }
    }

    fn alarm(&self) -> Option<Time> {
        if let Source::At(at) = &self.0 { Some(*at) } else { None }
    }
}

impl<W: Wait> Wait for &W {
    fn is_ready(&self) -> bool {
        (**self).is_ready()
    }

    fn alarm(&self) -> Option<Time> {
        (**self).alarm()
    }
}

/// Waits until one of the sources is ready. Returns which. If several are ready, any of them may come first.
pub(crate) fn wait_for(all: &[&dyn Wait], wait: Option<Duration>) -> Option<usize> {
    let world = World::here();
    let alarm = all.iter().filter_map(|one| one.alarm()).min().map(|at| at.since(world.seen()));
    let wait = [alarm, wait].into_iter().flatten().min();
    world.sleep(wait, || {
        let ready: Vec<usize> = (0..all.len()).filter(|&one| all[one].is_ready()).collect();
        (!ready.is_empty()).then(|| ready[thread_rng().gen_range(0..ready.len())])
    })
}

/// `select!` with `recv` and `default(wait)`.
macro_rules! select {
    (@arms [$($arms:tt)*] recv($from:expr) -> $what:pat => $body:block, $($rest:tt)*) => {
        $crate::select!(@arms [$($arms)* {$from} {$what} {$body}] $($rest)*)
    };
    (@arms [$($arms:tt)*] recv($from:expr) -> $what:pat => $body:block $($rest:tt)*) => {
        $crate::select!(@arms [$($arms)* {$from} {$what} {$body}] $($rest)*)
    };
    (@arms [$($arms:tt)*] recv($from:expr) -> $what:pat => $body:expr, $($rest:tt)*) => {
        $crate::select!(@arms [$($arms)* {$from} {$what} {$body}] $($rest)*)
    };
    (@arms [$({$from:expr} {$what:pat} {$body:expr})*] default($wait:expr) => $default:block) => {{
        let which = $crate::channels::wait_for(&[$(&$from as &dyn $crate::channels::Wait),*], Some($wait));
        $crate::select!(@take which, 0usize, $default, $({$from} {$what} {$body})*)
    }};
    (@arms [$({$from:expr} {$what:pat} {$body:expr})*]) => {{
        let which = $crate::channels::wait_for(&[$(&$from as &dyn $crate::channels::Wait),*], None);
        // An alarm among them that has gone off is found by its turn.
        $crate::select!(@take which, 0usize, {}, $({$from} {$what} {$body})*)
    }};
    (@take $which:ident, $at:expr, $default:block, {$from:expr} {$what:pat} {$body:expr} $($rest:tt)*) => {
        match $which {
            Some(at) if at == $at => {
                let $what = $from.take();
                $body
            }
            _ => $crate::select!(@take $which, $at + 1, $default, $($rest)*),
        }
    };
    (@take $which:ident, $at:expr, $default:block,) => { $default };
    (recv $($arms:tt)*) => { $crate::select!(@arms [] recv $($arms)*) };
}

pub(crate) use select;
