//! The frames and iterations of a step, and their recycling.
//!
//! Frames and iterations live in the step's arena until the step is dropped; those that are over are used again. So
//! a pointer to one is always good memory, and everything that could be stale is checked by state under the frame's
//! lock.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

use actorflow_core::Tensor;
use actorflow_core::error::Error;
use actorflow_core::rendezvous::{NO_ITERATION, iteration_tag};
use parking_lot::{Mutex, MutexGuard};

use super::layout::{Flow, StaticFrame};
use crate::pending::Pending;

pub(super) type Slot = UnsafeCell<Option<Tensor>>;

/// One iteration of a frame: the slots and words of its nodes.
pub(in crate::exec) struct Iter {
    slots: *const Slot,
    words: *const Pending,
    /// The frame it is an iteration of, set while this thread has the iteration to itself.
    frame: AtomicPtr<Frame>,
    /// From 0.
    number: AtomicU64,
    /// Nodes that are ready or running, plus frames inside.
    pub(super) outstanding: AtomicU32,
    /// The frames inside that are in progress, by loop.
    pub(super) children: Box<[AtomicPtr<Frame>]>,
    /// The memory behind `slots` and `words`; the outermost iteration uses the step's.
    _memory: Option<(Box<[Slot]>, Box<[Pending]>)>,
}

/// `outstanding` of the outermost iteration, which ends with the step.
const FOREVER: u32 = 1 << 31;

impl Iter {
    fn own(frame: &StaticFrame) -> Iter {
        let slots: Box<[Slot]> = (0..frame.slots).map(|_| UnsafeCell::new(None)).collect();
        let words: Box<[Pending]> = frame.template.iter().map(|t| Pending::new(*t)).collect();
        Iter {
            slots: slots.as_ptr(),
            words: words.as_ptr(),
            frame: AtomicPtr::new(ptr::null_mut()),
            number: AtomicU64::new(0),
            outstanding: AtomicU32::new(0),
            children: (0..frame.children).map(|_| AtomicPtr::default()).collect(),
            _memory: Some((slots, words)),
        }
    }

    /// The pending word of that number.
    ///
    /// # Safety
    /// `word` is one of the words of the frame that this is an iteration of.
    #[inline(always)]
    pub(super) unsafe fn word(&self, word: u32) -> &Pending {
        // SAFETY: in range by the caller's promise; the memory lives as long as the step.
        unsafe { &*self.words.add(word as usize) }
    }

    /// The slots of a node.
    ///
    /// # Safety
    /// The range is of the frame that this is an iteration of, and the caller runs the node, or is its only producer
    /// left.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(in crate::exec) unsafe fn inputs(&self, first: u32, n: u16) -> &mut [Option<Tensor>] {
        // SAFETY: `UnsafeCell<T>` has the layout of `T`; the caller has the range to itself.
        unsafe {
            let base = self.slots.add(first as usize) as *mut Option<Tensor>;
            std::slice::from_raw_parts_mut(base, n as usize)
        }
    }

    /// Writes a slot.
    ///
    /// # Safety
    /// The slot is of the frame that this is an iteration of; the caller is its producer and has not yet counted the
    /// arrival.
    #[inline(always)]
    pub(super) unsafe fn put(&self, slot: u32, t: Tensor) {
        // SAFETY: in range, and the caller's alone.
        unsafe { *(*self.slots.add(slot as usize)).get() = Some(t) }
    }

    /// The frame that it is an iteration of.
    #[inline(always)]
    pub(super) fn frame(&self) -> &Frame {
        // SAFETY: set before the iteration is used, to a frame of the same arena.
        unsafe { &*self.frame.load(Relaxed) }
    }

    /// Its number in the frame, from 0.
    #[inline(always)]
    pub(super) fn number(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// The tag by which other devices know the iteration.
    pub(in crate::exec) fn tag(&self, flow: &Flow) -> u64 {
        let frame = self.frame();
        match frame.outer() {
            None => NO_ITERATION,
            // SAFETY: iterations live as long as the step, and a frame's outer one is in progress while it is.
            Some(outer) => iteration_tag(
                unsafe { outer.as_ref() }.tag(flow),
                flow.frames[frame.stat as usize].hash,
                self.number(),
            ),
        }
    }

    /// Adds to an error which iteration it comes from.
    #[cold]
    pub(in crate::exec) fn locate(&self, flow: &Flow, e: Error) -> Error {
        match self.frame().stat {
            0 => e,
            stat => e.context(format!(
                "iteration {} of loop {:?}",
                self.number(),
                flow.frames[stat as usize].name
            )),
        }
    }

    /// Makes it like new; the caller has it to itself.
    fn clear(&self, stat: &StaticFrame) {
        for (i, t) in stat.template.iter().enumerate() {
            // SAFETY: the template has one entry for each word of the frame.
            unsafe { self.word(i as u32) }.reset(*t);
        }
        for i in 0..stat.slots {
            // SAFETY: in range; the caller has the iteration to itself.
            let slot = unsafe { &mut *(*self.slots.add(i)).get() };
            if slot.is_some() {
                *slot = None;
            }
        }
    }
}

/// What of a frame changes under its lock.
#[derive(Default)]
pub(super) struct FrameState {
    /// Enters that have not arrived yet.
    pub(super) awaited: u32,
    /// The iterations in progress, oldest first, without gaps.
    pub(super) iters: VecDeque<NonNull<Iter>>,
    /// What has come for the iteration after the newest one, which may not begin yet.
    pub(super) parked: Vec<(u32, Option<Tensor>)>,
    /// The constant Enters that have arrived; `None` for a dead one.
    pub(super) invariants: Vec<(u32, Option<Tensor>)>,
}

/// One execution of a loop.
pub(super) struct Frame {
    /// Which loop of the plan.
    pub(super) stat: u32,
    /// The iteration around it; null for the outermost frame.
    outer: AtomicPtr<Iter>,
    /// Which Exits have been live.
    pub(super) left: Box<[AtomicBool]>,
    state: Mutex<FrameState>,
}

/// Access to a frame's state: locked, or, in a step of one thread, plain.
pub(super) enum Held<'a> {
    Locked(MutexGuard<'a, FrameState>),
    Plain(&'a mut FrameState),
}

impl Deref for Held<'_> {
    type Target = FrameState;
    #[inline(always)]
    fn deref(&self) -> &FrameState {
        match self {
            Held::Locked(g) => g,
            Held::Plain(s) => s,
        }
    }
}

impl DerefMut for Held<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut FrameState {
        match self {
            Held::Locked(g) => g,
            Held::Plain(s) => s,
        }
    }
}

impl Frame {
    fn new(stat: u32, exits: usize) -> Frame {
        Frame {
            stat,
            outer: AtomicPtr::new(ptr::null_mut()),
            left: (0..exits).map(|_| AtomicBool::new(false)).collect(),
            state: Mutex::default(),
        }
    }

    /// The frame's state.
    ///
    /// # Safety
    /// With `SOLO`, this thread is the only one of the step, and holds no other access to this frame's state.
    #[inline(always)]
    pub(super) unsafe fn hold<const SOLO: bool>(&self) -> Held<'_> {
        if SOLO {
            // SAFETY: nobody else has access, by the caller's promise.
            Held::Plain(unsafe { &mut *self.state.data_ptr() })
        } else {
            Held::Locked(self.state.lock())
        }
    }

    /// The iteration around the frame; `None` for the outermost frame.
    #[inline(always)]
    pub(super) fn outer(&self) -> Option<NonNull<Iter>> {
        NonNull::new(self.outer.load(Relaxed))
    }
}

/// Owns all frames and iterations of a step.
struct Arena {
    iters: Vec<NonNull<Iter>>,
    frames: Vec<NonNull<Frame>>,
    free_iters: Vec<Vec<NonNull<Iter>>>,
    free_frames: Vec<Vec<NonNull<Frame>>>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        for i in self.iters.drain(..) {
            // SAFETY: came from `Box::into_raw` when it was added, and nothing of the step is used any more.
            drop(unsafe { Box::from_raw(i.as_ptr()) });
        }
        for f in self.frames.drain(..) {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(f.as_ptr()) });
        }
    }
}

/// The mutable half of a run of a plan with control flow, beside the step's own slots, which are the outermost
/// iteration's.
pub(in crate::exec) struct FlowStep {
    root: NonNull<Iter>,
    arena: Mutex<Arena>,
}

// SAFETY: the pointers are to memory that the step owns; what is shared behind them is atomic, locked, or handed over
// by arrivals (see `pending`), as in an ordinary step.
unsafe impl Send for FlowStep {}
// SAFETY: as above.
unsafe impl Sync for FlowStep {}

fn leak<T>(x: T) -> NonNull<T> {
    // SAFETY: `Box::into_raw` is never null.
    unsafe { NonNull::new_unchecked(Box::into_raw(Box::new(x))) }
}

impl FlowStep {
    /// The state of a new step whose slots and words are these.
    pub(in crate::exec) fn new(flow: &Flow, slots: &[Slot], words: &[Pending]) -> FlowStep {
        let frame = leak(Frame::new(0, 0));
        let root = leak(Iter {
            slots: slots.as_ptr(),
            words: words.as_ptr(),
            frame: AtomicPtr::new(frame.as_ptr()),
            number: AtomicU64::new(0),
            outstanding: AtomicU32::new(FOREVER),
            children: (0..flow.frames[0].children).map(|_| AtomicPtr::default()).collect(),
            _memory: None,
        });
        let kinds = flow.frames.len();
        FlowStep {
            root,
            arena: Mutex::new(Arena {
                iters: vec![root],
                frames: vec![frame],
                free_iters: vec![Vec::new(); kinds],
                free_frames: vec![Vec::new(); kinds],
            }),
        }
    }

    /// The outermost iteration.
    #[inline(always)]
    pub(in crate::exec) fn root(&self) -> NonNull<Iter> {
        self.root
    }

    /// Makes the state of a finished step like new; false if something in it is not over.
    pub(in crate::exec) fn reset(&mut self, flow: &Flow) -> bool {
        let arena = self.arena.get_mut();
        let idle: usize = arena.free_iters.iter().map(Vec::len).sum();
        if idle + 1 != arena.iters.len() {
            return false;
        }
        // SAFETY: the root lives as long as the arena; the caller has the step to itself.
        let root = unsafe { self.root.as_ref() };
        root.clear(&flow.frames[0]);
        root.outstanding.store(FOREVER, Relaxed);
        true
    }

    #[inline(always)]
    fn arena<const SOLO: bool>(&self) -> ArenaHeld<'_> {
        if SOLO {
            // SAFETY: the only thread of the step; no access to the arena outlives the functions below.
            ArenaHeld::Plain(unsafe { &mut *self.arena.data_ptr() })
        } else {
            ArenaHeld::Locked(self.arena.lock())
        }
    }

    /// An iteration of `frame`, as new, with nothing outstanding.
    ///
    /// # Safety
    /// With `SOLO`, this thread is the only one of the step.
    #[inline]
    pub(super) unsafe fn iteration<const SOLO: bool>(&self, flow: &Flow, frame: &Frame, number: u64) -> NonNull<Iter> {
        let i = {
            let mut arena = self.arena::<SOLO>();
            match arena.free_iters[frame.stat as usize].pop() {
                Some(i) => i,
                None => {
                    let i = leak(Iter::own(&flow.frames[frame.stat as usize]));
                    arena.iters.push(i);
                    i
                }
            }
        };
        // SAFETY: out of the free list, so this thread has it to itself.
        let it = unsafe { i.as_ref() };
        it.frame.store(ptr::from_ref(frame).cast_mut(), Relaxed);
        it.number.store(number, Relaxed);
        it.outstanding.store(0, Relaxed);
        i
    }

    /// Takes back an iteration that is over.
    ///
    /// # Safety
    /// With `SOLO`, this thread is the only one of the step; nothing of the iteration is outstanding.
    #[inline]
    pub(super) unsafe fn recycle<const SOLO: bool>(&self, flow: &Flow, stat: u32, iter: NonNull<Iter>) {
        // SAFETY: the iteration is over, so this thread has it to itself.
        unsafe { iter.as_ref() }.clear(&flow.frames[stat as usize]);
        self.arena::<SOLO>().free_iters[stat as usize].push(iter);
    }

    /// A frame of loop `stat` inside of the iteration `outer`, with its first iteration.
    ///
    /// # Safety
    /// With `SOLO`, this thread is the only one of the step.
    pub(super) unsafe fn frame<const SOLO: bool>(&self, flow: &Flow, stat: u32, outer: &Iter) -> NonNull<Frame> {
        let spec = &flow.frames[stat as usize];
        let f = {
            let mut arena = self.arena::<SOLO>();
            match arena.free_frames[stat as usize].pop() {
                Some(f) => f,
                None => {
                    let f = leak(Frame::new(stat, spec.exits.len()));
                    arena.frames.push(f);
                    f
                }
            }
        };
        // SAFETY: frames live as long as the step.
        let frame = unsafe { f.as_ref() };
        frame.outer.store(ptr::from_ref(outer).cast_mut(), Relaxed);
        frame.left.iter().for_each(|l| l.store(false, Relaxed));
        // SAFETY: the promise of the caller.
        let first = unsafe { self.iteration::<SOLO>(flow, frame, 0) };
        // SAFETY: as above; a frame out of the free list is held by nobody else for long.
        let mut s = unsafe { frame.hold::<SOLO>() };
        s.awaited = spec.enters;
        s.iters.push_back(first);
        f
    }

    /// Takes back a frame that is over.
    ///
    /// # Safety
    /// With `SOLO`, this thread is the only one of the step.
    pub(super) unsafe fn recycle_frame<const SOLO: bool>(&self, frame: &Frame) {
        self.arena::<SOLO>().free_frames[frame.stat as usize].push(NonNull::from(frame));
    }
}

enum ArenaHeld<'a> {
    Locked(MutexGuard<'a, Arena>),
    Plain(&'a mut Arena),
}

impl Deref for ArenaHeld<'_> {
    type Target = Arena;
    #[inline(always)]
    fn deref(&self) -> &Arena {
        match self {
            ArenaHeld::Locked(g) => g,
            ArenaHeld::Plain(a) => a,
        }
    }
}

impl DerefMut for ArenaHeld<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Arena {
        match self {
            ArenaHeld::Locked(g) => g,
            ArenaHeld::Plain(a) => a,
        }
    }
}
