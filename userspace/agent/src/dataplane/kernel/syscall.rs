//! bpf(2) and mmap(2): all of the agent's `unsafe` code.
//!
//! What aya 0.14 does not speak: batches, links by file descriptor, and arrays mapped into memory.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Pod;
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_link_info, bpf_map_info, bpf_prog_type};

/// Opens a pinned map or link.
pub(super) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, ..PinAttr::default() };
    // SAFETY: the attributes are those of BPF_OBJ_GET, and the path outlives the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just handed us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a map or link.
pub(super) fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the attributes are those of BPF_OBJ_PIN, and the path outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Attaches a program to a target: an interface index for tcx, a cgroup's descriptor for a socket hook.
pub(super) fn link_create(program: BorrowedFd<'_>, target: u32, attach: bpf_attach_type) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    let mut attr = LinkCreateAttr { program, target, attach: attach as u32, ..LinkCreateAttr::default() };
    // SAFETY: the attributes are those of BPF_LINK_CREATE, without pointers.
    let fd = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just handed us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces a link's program atomically.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let program = program.as_raw_fd() as u32;
    let mut attr = LinkUpdateAttr { link: link.as_raw_fd() as u32, program, ..LinkUpdateAttr::default() };
    // SAFETY: the attributes are those of BPF_LINK_UPDATE, without pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link's program off its target at once. Closing or unpinning the link does so only some time later.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    // SAFETY: the only attribute of BPF_LINK_DETACH is the link's descriptor.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// What a link hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// A network device; 0 when the device is gone.
    Device(u32),
    /// A cgroup, by its inode number.
    Cgroup(u64),
}

/// What a tcx or cgroup link hangs on.
pub(super) fn link_target(link: BorrowedFd<'_>, is_device: bool) -> io::Result<LinkTarget> {
    let info: bpf_link_info = object_info(link)?;
    // SAFETY: the union member is the one of the link's type, which the caller states; both are plain integers.
    Ok(unsafe {
        match is_device {
            true => LinkTarget::Device(info.__bindgen_anon_1.tcx.ifindex),
            false => LinkTarget::Cgroup(info.__bindgen_anon_1.cgroup.cgroup_id),
        }
    })
}

/// Type, sizes and flags of a map.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    object_info(map)
}

/// Inserts or replaces one element.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, key, ptr::from_ref(value) as u64)
}

/// Removes one element.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    element(bpf_cmd::BPF_MAP_DELETE_ELEM, map, key, 0)
}

/// Reads one element of a hash.
pub(super) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    match element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, key, value.as_mut_ptr() as u64) {
        // SAFETY: the kernel has filled the value, and every bit pattern is a value of a Pod.
        Ok(()) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Inserts or replaces elements in order; an error comes with the number of those before it. Both slices are of one
/// length.
pub(super) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    assert_eq!(keys.len(), values.len(), "a value for every key");
    batch(bpf_cmd::BPF_MAP_UPDATE_BATCH, map, keys, values.as_ptr() as u64)
}

/// Removes elements in order; an error comes with the number of those before it.
pub(super) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), (usize, io::Error)> {
    batch(bpf_cmd::BPF_MAP_DELETE_BATCH, map, keys, 0)
}

/// All elements of a hash or array whose sizes are those of `K` and `V`.
pub(super) fn dump<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let info = map_info(map)?;
    if (info.key_size as usize, info.value_size as usize) != (size_of::<K>(), size_of::<V>()) {
        return Err(io::Error::other("the map's sizes are not those of the types"));
    }
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let (entries, next) = page(map, from, 4096.min(info.max_entries))?;
        all.extend(entries);
        let Some(next) = next else { return Ok(all) };
        from = Some(next);
    }
}

/// Some elements, and the place where the others begin.
pub(super) type Part<K, V> = (Vec<(K, V)>, Option<u32>);

/// About `room` elements of a hash or array whose sizes are those of `K` and `V`, from a place an earlier call gave or
/// from the beginning.
pub(super) fn page<K: Pod, V: Pod>(map: BorrowedFd<'_>, from: Option<u32>, room: u32) -> io::Result<Part<K, V>> {
    let mut room = room.max(1) as usize;
    let mut next = 0u32;
    loop {
        let mut keys = vec![MaybeUninit::<K>::uninit(); room];
        let mut values = vec![MaybeUninit::<V>::uninit(); room];
        let mut attr = BatchAttr {
            in_batch: from.as_ref().map_or(0, |from| ptr::from_ref(from) as u64),
            out_batch: ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        // SAFETY: the buffers hold `count` keys and values of the map's sizes, as the caller promises; the cursors are
        // four bytes, as hashes and arrays want them.
        let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let ended = match result {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // A bucket is longer than the buffer: the cursor has not moved.
                Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                _ => return Err(error),
            },
        };
        let pairs = keys.iter().zip(&values).take(attr.count as usize);
        // SAFETY: the kernel has filled the first `count` elements, and every bit pattern is a value of a Pod.
        let entries = pairs.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }).collect();
        return Ok((entries, (!ended).then_some(next)));
    }
}

/// Whether the kernel has tcx (6.6): older ones do not know the attach type.
pub(super) fn has_tcx() -> io::Result<bool> {
    const LOOPBACK: u32 = 1;
    let attach = bpf_attach_type::BPF_TCX_INGRESS as u32;
    let mut attr = QueryAttr { target: LOOPBACK, attach, ..QueryAttr::default() };
    // SAFETY: the attributes are those of BPF_PROG_QUERY; with a count of 0 nothing is written through a pointer.
    match unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => Ok(false),
            Some(libc::ENOENT) => Ok(true),
            _ => Err(error),
        },
    }
}

/// Whether connect hooks may set the system call's result (`bpf_set_retval`, 5.18).
pub(super) fn has_set_retval() -> bool {
    const BPF_FUNC_SET_RETVAL: i32 = 187;
    let instruction = |code: u8, register: u8, immediate: i32| {
        let mut instruction =
            bpf_insn { code, _bitfield_align_1: [], _bitfield_1: Default::default(), off: 0, imm: immediate };
        instruction.set_dst_reg(register);
        instruction
    };
    // r1 = -ECONNREFUSED; call set_retval; r0 = 1; exit
    let program = [
        instruction(0xb7, 1, -libc::ECONNREFUSED),
        instruction(0x85, 0, BPF_FUNC_SET_RETVAL),
        instruction(0xb7, 0, 1),
        instruction(0x95, 0, 0),
    ];
    let mut attr = ProgramAttr {
        program_type: bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach: bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32,
        ..ProgramAttr::default()
    };
    // SAFETY: the attributes are those of BPF_PROG_LOAD; instructions and licence outlive the call.
    match unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) } {
        Ok(fd) => {
            // SAFETY: the kernel has just handed us this descriptor; it is closed here.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            true
        }
        Err(_) => false,
    }
}

/// An array map in our memory. The kernel's programs read it at the same time, so all access is atomic, by words.
pub(super) struct Mapped {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `entries` elements of `size` bytes, which the kernel rounds up to 8.
    pub(super) fn new(map: BorrowedFd<'_>, entries: u32, size: usize) -> io::Result<Self> {
        let length = entries as usize * size.next_multiple_of(8);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the kernel checks length and rights.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave a null pointer"))?;
        Ok(Self { base, length })
    }

    pub(super) fn load64(&self, word: usize) -> u64 {
        self.word64(word).load(Ordering::Acquire)
    }

    pub(super) fn store64(&self, word: usize, value: u64, ordering: Ordering) {
        self.word64(word).store(value, ordering);
    }

    pub(super) fn load32(&self, word: usize) -> u32 {
        self.word32(word).load(Ordering::Relaxed)
    }

    pub(super) fn store32(&self, word: usize, value: u32) {
        self.word32(word).store(value, Ordering::Relaxed);
    }

    fn word64(&self, word: usize) -> &AtomicU64 {
        assert!(word < self.length / 8, "word {word} is outside the map");
        // SAFETY: inside the mapping, aligned (a page boundary plus a multiple of 8), and only ever accessed atomically.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().cast::<u64>().add(word)) }
    }

    fn word32(&self, word: usize) -> &AtomicU32 {
        assert!(word < self.length / 4, "word {word} is outside the map");
        // SAFETY: inside the mapping, aligned (a page boundary plus a multiple of 4), and only ever accessed atomically.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().cast::<u32>().add(word)) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and no reference into it outlives this value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

fn element<K: Pod>(command: bpf_cmd, map: BorrowedFd<'_>, key: &K, value: u64) -> io::Result<()> {
    let mut attr = ElementAttr { map: map.as_raw_fd() as u32, pad: 0, key: ptr::from_ref(key) as u64, value, flags: 0 };
    // SAFETY: key and value outlive the call; their sizes are the map's, which were compared when it was opened.
    unsafe { bpf(command, &mut attr) }.map(drop)
}

fn batch<K: Pod>(command: bpf_cmd, map: BorrowedFd<'_>, keys: &[K], values: u64) -> Result<(), (usize, io::Error)> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // SAFETY: keys and values outlive the call and hold `count` elements; their sizes are the map's, which were
    // compared when it was opened.
    let result = unsafe { bpf(command, &mut attr) };
    result.map(drop).map_err(|error| (attr.count as usize, error))
}

fn object_info<T>(fd: BorrowedFd<'_>) -> io::Result<T>
where
    T: Info,
{
    let mut info = MaybeUninit::<T>::zeroed();
    let length = size_of::<T>() as u32;
    let mut attr = InfoAttr { fd: fd.as_raw_fd() as u32, length, info: info.as_mut_ptr() as u64 };
    // SAFETY: the attributes are those of BPF_OBJ_GET_INFO_BY_FD; the buffer is zeroed and `length` bytes long.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    // SAFETY: zeroed before the call, and made of integers only.
    Ok(unsafe { info.assume_init() })
}

/// The kernel's descriptions of objects: integers and unions of integers, so that zeros are a value.
trait Info {}
impl Info for bpf_link_info {}
impl Info for bpf_map_info {}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// # Safety
///
/// `attr` is the leading part of the command's attributes; the kernel takes what is missing for zeros. Its pointers
/// are valid for what the command does with them.
unsafe fn bpf<T>(command: bpf_cmd, attr: &mut T) -> io::Result<i32> {
    // SAFETY: as promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

// The leading parts of `union bpf_attr` (include/uapi/linux/bpf.h).

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    /// tcx: relative to which program, none; then the expected revision, any.
    relative: u32,
    pad: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramAttr {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach: u32,
}
