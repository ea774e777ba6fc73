//! What all fuzz targets share: the bodies are in the crates, the bound on memory is here.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    panic, process,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Bytes that an input may make its target hold for each of its own: sixty-four, so that a vector of the largest decoded
/// element, grown by doubling, fits for each byte (our guess; a number that is believed before its bytes arrived does not).
const PER_BYTE: usize = 64;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator, which ends the process as soon as more is held than the input may cost.
struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed).saturating_add(bytes);
    let most = MOST.load(Relaxed);
    if held > most {
        MOST.store(usize::MAX, Relaxed);
        eprintln!("the input makes its target hold {held} bytes, {most} are allowed: an allocation of {bytes}");
        process::abort();
    }
}

// SAFETY: everything is the system's allocator's; this only counts.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Runs a body on an input; it may hold `base` bytes, and sixty-four for each byte of the input.
pub fn run(body: fn(&[u8]), base: usize, data: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            MOST.store(usize::MAX, Relaxed); // telling of a panic is not the input's doing
            report(panic);
        }));
    });
    MOST.store(HELD.load(Relaxed) + base + PER_BYTE * data.len(), Relaxed);
    body(data);
    MOST.store(usize::MAX, Relaxed);
}

/// A fuzz target: the body in its crate, and the KiB that it may hold beside what its input pays for.
#[macro_export]
macro_rules! target {
    ($body:path, $kib:literal) => {
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run($body, $kib << 10, data));
    };
}
