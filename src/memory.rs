//! How this process takes memory from the system. The only unsafe code of ftx.

/// Heaps that threads take turns in. Each keeps what its busiest moment needed; with one for each of
/// some thirty threads the server held twice of what it had in use (45 MB against 24 at the end of
/// a put of 100,000 files). With two nothing becomes measurably slower: what moves bytes allocates
/// little.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;

/// What is larger than this is taken from the system by itself, and given back at once. Left alone,
/// the limit rises with the first such block that is given back, and large blocks tear holes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const BY_ITSELF_BYTES: libc::c_int = 128 * 1024;

/// Keeps the memory that the process has near to what it uses. Call it before there is a second
/// thread.
pub fn keep_small() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, BY_ITSELF_BYTES)] {
        #[expect(unsafe_code, reason = "there is no safe way to say this to the allocator")]
        // SAFETY: mallopt(3) takes two numbers and has no preconditions. It is not safe beside
        // other threads that allocate; there are none yet. If it fails all stays as it was.
        let _ = unsafe { libc::mallopt(what, value) };
    }
}
