//! Time and sleep of the made-up system.
//!
//! Time stands still while nobody looks at the clock, and moves by a random step when somebody does: a thread may
//! lose the processor at any moment. When every thread sleeps, the [`World`] is asked whether that is right; then
//! time goes on to the next alarm.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ossec_broker::proto::time::Time;
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread::{self, Thread, ThreadId};

std::thread_local! {
    /// The world of the schedule that this thread of the test explores.
    static WORLD: std::cell::RefCell<Option<Arc<World>>> = const { std::cell::RefCell::new(None) };
}

/// The state that all threads of a schedule share. Its locks are held only between two steps of a schedule, so no
/// thread ever waits for them.
#[derive(Debug)]
pub(crate) struct World {
    state: Mutex<State>,
    /// A look at this is a step: another thread may come first here.
    step: AtomicBool,
    /// The world says what happens.
    loud: bool,
    /// The thread that is woken when all others sleep.
    keeper: Thread,
}

#[derive(Debug)]
struct State {
    now: Time,
    /// The moment that each thread saw when it last looked at the clock or woke up. It waits from that moment on.
    seen: HashMap<ThreadId, Time>,
    names: HashMap<ThreadId, &'static str>,
    awake: usize,
    sleepers: Vec<Sleeper>,
}

/// A thread that waits.
#[derive(Clone)]
pub(crate) struct Sleeper {
    pub(crate) name: &'static str,
    thread: Thread,
    /// The moment when the thread wakes up by itself.
    pub(crate) alarm: Option<Time>,
    woken: Arc<std::sync::atomic::AtomicBool>,
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.alarm {
            Some(alarm) => write!(f, "{} until {}", self.name, Micros(alarm)),
            None => write!(f, "{} for ever", self.name),
        }
    }
}

/// A moment, for people.
pub(crate) struct Micros(pub(crate) Time);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us", self.0.as_nanos() / 1_000)
    }
}

impl Sleeper {
    fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl World {
    pub(crate) fn begin(loud: bool) -> Arc<Self> {
        let state = State {
            now: Time::from_millis(1_000),
            seen: HashMap::new(),
            names: HashMap::new(),
            awake: 0,
            sleepers: Vec::new(),
        };
        let keeper = thread::current();
        let world = Arc::new(Self { state: Mutex::new(state), step: AtomicBool::new(false), loud, keeper });
        WORLD.set(Some(Arc::clone(&world)));
        world
    }

    pub(crate) fn here() -> Arc<Self> {
        WORLD.with_borrow(|world| Arc::clone(world.as_ref().expect("a schedule has begun")))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Another thread may come first.
    pub(crate) fn step(&self) {
        if !std::thread::panicking() {
            self.step.load(Ordering::SeqCst);
        }
    }

    /// The time of the clock, without a look at it.
    pub(crate) fn time(&self) -> Time {
        self.state().now
    }

    /// The time of the clock when this thread last looked at it.
    pub(crate) fn seen(&self) -> Time {
        let id = thread::current().id();
        let state = self.state();
        state.seen.get(&id).copied().unwrap_or(state.now)
    }

    /// Says what the calling thread does, when a schedule is run again.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.loud {
            let id = thread::current().id();
            let (name, now) = {
                let state = self.state();
                (state.names.get(&id).copied().unwrap_or("keeper"), state.now)
            };
            println!("{} {name}: {}", Micros(now), what());
        }
    }

    /// Looks at the clock.
    pub(crate) fn look(&self) -> Time {
        self.step();
        let lost = match thread_rng().gen_range(0..100) {
            0 => Duration::from_millis(thread_rng().gen_range(0..150)),
            1..10 => Duration::from_millis(thread_rng().gen_range(0..8)),
            _ => Duration::from_micros(10),
        };
        let id = thread::current().id();
        let mut state = self.state();
        state.now = state.now + lost;
        let now = state.now;
        state.seen.insert(id, now);
        drop(state);
        self.say(|| "looks at the clock".into());
        now
    }

    /// Sleeps until `ready` gives something, or for `wait` since the thread last looked at the clock.
    pub(crate) fn sleep<T>(&self, wait: Option<Duration>, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        self.step();
        let me = thread::current();
        let alarm = wait.map(|wait| self.seen() + wait);
        loop {
            if let Some(value) = ready() {
                return Some(value);
            }
            if alarm.is_some_and(|alarm| alarm <= self.time()) {
                return None;
            }
            self.lie_down(me.clone(), alarm);
        }
    }

    fn lie_down(&self, thread: Thread, alarm: Option<Time>) {
        self.say(|| alarm.map_or("sleeps".into(), |alarm| format!("sleeps until {}", Micros(alarm))));
        let (id, woken) = (thread.id(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        {
            let mut state = self.state();
            let name = state.names.get(&id).copied().unwrap_or("?");
            state.sleepers.push(Sleeper { name, thread, alarm, woken: Arc::clone(&woken) });
        }
        self.leave();
        // The explorer may end a park without a reason.
        while !woken.load(Ordering::Relaxed) {
            thread::park();
        }
        let mut state = self.state();
        let now = state.now;
        state.seen.insert(id, now);
    }

    /// Something has changed: all sleeping threads look again.
    pub(crate) fn notify(&self) {
        if std::thread::panicking() {
            return;
        }
        let woken = {
            let mut state = self.state();
            state.awake += state.sleepers.len();
            std::mem::take(&mut state.sleepers)
        };
        for sleeper in woken {
            sleeper.wake();
        }
    }

    /// A thread is about to be started.
    pub(crate) fn born(&self) {
        self.state().awake += 1;
    }

    /// The calling thread has this name.
    pub(crate) fn name(&self, name: &'static str) {
        let id = thread::current().id();
        self.state().names.insert(id, name);
    }

    /// The calling thread ends, or sleeps.
    pub(crate) fn leave(&self) {
        let silent = {
            let mut state = self.state();
            state.awake -= 1;
            state.awake == 0
        };
        if silent {
            self.keeper.unpark();
        }
    }

    /// Waits until all threads sleep and no alarm is due. Returns the sleepers; none when all threads have ended.
    pub(crate) fn wait_for_silence(&self) -> Vec<Sleeper> {
        loop {
            let (silent, due) = {
                let state = self.state();
                (
                    state.awake == 0,
                    state.sleepers.iter().any(|sleeper| sleeper.alarm.is_some_and(|at| at <= state.now)),
                )
            };
            match (silent, due) {
                (true, false) => return self.state().sleepers.clone(),
                (true, true) => self.pass(),
                (false, _) => thread::park(),
            }
        }
    }

    /// Lets time go on to the next alarm; panics if there is none.
    pub(crate) fn pass(&self) {
        let woken = {
            let mut state = self.state();
            let next = state.sleepers.iter().filter_map(|sleeper| sleeper.alarm).min();
            let next = next.unwrap_or_else(|| panic!("nobody will ever wake up: {:?}", state.sleepers));
            state.now = state.now.max(next);
            let now = state.now;
            let rings = |sleeper: &Sleeper| sleeper.alarm.is_some_and(|alarm| alarm <= now);
            let (woken, asleep): (Vec<_>, Vec<_>) = std::mem::take(&mut state.sleepers).into_iter().partition(rings);
            state.sleepers = asleep;
            state.awake += woken.len();
            woken
        };
        for sleeper in woken {
            sleeper.wake();
        }
    }
}

pub(crate) fn thread_rng() -> shuttle::rand::rngs::ThreadRng {
    shuttle::rand::thread_rng()
}

/// True so many times in a hundred.
pub(crate) fn percent(chance: u32) -> bool {
    thread_rng().gen_range(0..100) < chance
}
