//! The heap of the first thread, which loads the model.

use std::ptr;

/// Bytes by which the heap grows. They are addresses: memory is taken as it is written to.
const STEP: i32 = 64 << 20;
/// The least bytes of an allocation that gets pages of its own: the most that glibc allows.
const OWN_PAGES: i32 = 32 << 20;
/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Lets the heap grow by few, large steps, the first of them in huge pages where the kernel gives them on request.
///
/// A small model takes 24 MB for the runtime's tables and its session, which by default are asked for in steps of 132 kB and touched in
/// 4 kB: 6,000 page faults. glibc's own setting for this (`glibc.malloc.hugetlb=1`) changed neither in the starts that were looked at (2.36).
///
/// To be called first: what was allocated before stays where it is.
pub(crate) fn prepare() {
    // SAFETY: the numbers are within what glibc allows; where it takes one not, all stays as it was.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, STEP);
        // Setting any of them keeps glibc from adapting the others, as it would do upon the first large block that is freed.
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * STEP);
        // Small blocks are merged as they are freed, and not all at once every time that a large one is freed: a graph's are many.
        libc::mallopt(libc::M_MXFAST, 0);
    }
    let begin = end_of_heap();
    // More than is left of the first step, which was made before the settings.
    drop(std::hint::black_box(vec![0_u8; 256 << 10]));
    let (begin, end) = (begin.next_multiple_of(HUGE_PAGE), end_of_heap());
    if let Some(length) = end.checked_sub(begin).filter(|&length| length >= HUGE_PAGE) {
        // SAFETY: the range is this process's heap. Advice changes nothing of what it holds, and may be refused.
        unsafe { libc::madvise(ptr::with_exposed_provenance_mut(begin), length, libc::MADV_HUGEPAGE) };
    }
}

fn end_of_heap() -> usize {
    // SAFETY: asking changes nothing.
    unsafe { libc::sbrk(0) }.expose_provenance()
}
