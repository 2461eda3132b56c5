//! The directory of pins, one per gateway: `/sys/fs/bpf/weir` unless told otherwise.
//!
//! Whichever process comes first creates the regions, under an exclusive lock on the directory, so
//! the start order of the two processes does not matter. Pins outlive both.

use std::fs::{DirBuilder, File, Permissions};
use std::io::ErrorKind as Kind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use weir_layout::adjacency::ADJACENCIES;
use weir_layout::allowance::SOCKETS;
use weir_layout::blocks::Blocks;
use weir_layout::control::{BUCKET_BANKS, BUCKETS, ControlPage, TABLES};
use weir_layout::counters::{LANES, Lane};
use weir_layout::flow::PAGE;
use weir_layout::nat_log::{Reader, Ring};
use weir_layout::observations::WorkerObservations;
use weir_layout::prefix_sets;
use weir_layout::status::StatusPage;
use weir_layout::tags::PAGE_GROUPS;
use weir_layout::{Family, MAX_WORKERS, RegionHeader, RegionKind};

use crate::claim::Role;
use crate::flows::slot::Slot;
use crate::flows::tags::TagWord;
use crate::flows::words::Stored;
use crate::map::{Access, Mmap, Shape};
use crate::{Error, map};

/// Where pins live unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/sys/fs/bpf/weir";

const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The regions, as file names in the directory and map names in the kernel.
pub mod name {
    use weir_layout::Family;

    /// [`ControlPage`](weir_layout::control::ControlPage).
    pub const CONTROL: &str = "CONTROL";
    /// Bucket tables.
    pub const BUCKETS: &str = "BUCKETS";
    /// IPv4 flow table.
    pub const FLOWS4: &str = "FLOWS4";
    /// Tags of the flow table's slots.
    pub const TAGS4: &str = "TAGS4";
    /// IPv6 flow table.
    pub const FLOWS6: &str = "FLOWS6";
    /// Tags of its slots.
    pub const TAGS6: &str = "TAGS6";
    /// Adjacencies: of next hops and of LANs.
    pub const ADJACENCIES: &str = "ADJACENCIES";
    /// Counters.
    pub const COUNTERS: &str = "COUNTERS";
    /// [`StatusPage`](weir_layout::status::StatusPage).
    pub const STATUS: &str = "STATUS";
    /// What workers see of new connections.
    pub const OBSERVATIONS: &str = "OBSERVATIONS";
    /// The kernel's settings as they were before weir.
    pub const SYSCTLS: &str = "SYSCTLS";
    /// Longest-prefix map of IPv4 destinations that stay on the gateway.
    pub const HOSTS4: &str = "HOSTS4";
    /// The same for IPv6.
    pub const HOSTS6: &str = "HOSTS6";
    /// [`Blocks`](weir_layout::blocks::Blocks) of both, by family.
    pub const BLOCKS: &str = "BLOCKS";
    /// What workers allow sources to send.
    pub const ALLOWANCES: &str = "ALLOWANCES";
    /// Rings with the log of NAT allocations.
    pub const NAT_LOG: &str = "NAT_LOG";
    /// What the control process says of them.
    pub const NAT_LOG_READ: &str = "NAT_LOG_READ";
    /// [Sets of prefixes](weir_layout::prefix_sets).
    pub const SETS: &str = "SETS";
    /// The regions that the XDP program works on.
    pub const PROGRAM: [&str; 12] = [
        CONTROL,
        BUCKETS,
        COUNTERS,
        FLOWS4,
        TAGS4,
        FLOWS6,
        TAGS6,
        ADJACENCIES,
        HOSTS4,
        HOSTS6,
        BLOCKS,
        ALLOWANCES,
    ];
    /// Prefix of the pinned XDP link of each device.
    pub const LINK: &str = "link-";
    /// Every region.
    const REGIONS: [&str; 18] = [
        CONTROL,
        BUCKETS,
        FLOWS4,
        TAGS4,
        FLOWS6,
        TAGS6,
        ADJACENCIES,
        COUNTERS,
        STATUS,
        OBSERVATIONS,
        SYSCTLS,
        HOSTS4,
        HOSTS6,
        BLOCKS,
        ALLOWANCES,
        NAT_LOG,
        NAT_LOG_READ,
        SETS,
    ];

    /// The flow table of a family.
    pub const fn flows(family: Family) -> &'static str {
        match family {
            Family::V4 => FLOWS4,
            Family::V6 => FLOWS6,
        }
    }

    /// The tags of its slots.
    pub const fn tags(family: Family) -> &'static str {
        match family {
            Family::V4 => TAGS4,
            Family::V6 => TAGS6,
        }
    }

    /// The destinations of a family.
    pub const fn hosts(family: Family) -> &'static str {
        match family {
            Family::V4 => HOSTS4,
            Family::V6 => HOSTS6,
        }
    }

    /// Regions of earlier builds.
    const EARLIER: [&str; 1] = ["NEIGHBOURS"];

    /// Is a file of this name weir's?
    pub fn is_ours(name: &str) -> bool {
        REGIONS.contains(&name) || EARLIER.contains(&name) || name.starts_with(LINK)
    }
}

/// The pin directory of one gateway.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

/// The path as a process sees it that may have a mount namespace of its own.
pub fn seen_by(pid: i32, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path))
}

impl Pins {
    /// Makes sure that the directory exists on a BPF file system, mounting one if need be, and that
    /// nobody but its owner, this process's user, can reach what is in it.
    pub fn create(directory: impl Into<PathBuf>) -> Result<Self, Error> {
        let directory = directory.into();
        if directory.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
            mount().map_err(|source| Error::Bpffs { path: BPFFS.into(), source })?;
        }
        let failed = |action, source| Error::Io { action, path: directory.clone(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| failed("create", e))?;
        let refused = |why: &str| failed("pin maps in", std::io::Error::other(why.to_owned()));
        if !is_bpffs(&directory) {
            return Err(refused("not on a BPF file system"));
        }
        let found = std::fs::symlink_metadata(&directory).map_err(|e| failed("look at", e))?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            return Err(refused("it is another user's: remove it, or give another --pins"));
        }
        if directory != Path::new(BPFFS) && found.mode() & 0o077 != 0 {
            std::fs::set_permissions(&directory, Permissions::from_mode(0o700))
                .map_err(|e| failed("close to other users", e))?;
        }
        Ok(Self { directory })
    }

    /// The directory as it is: for readers, which create nothing.
    pub fn existing(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// What to say when the parent process does not see the directory, because this one has a mount
    /// namespace of its own: then neither do the other programs that it starts. `None`: it does, or
    /// cannot be looked at.
    pub fn warning(&self) -> Option<String> {
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
        let ours = device(&self.directory).ok()?;
        let parent = rustix::process::getppid()?.as_raw_nonzero();
        match device(&seen_by(parent.get(), &self.directory)) {
            Ok(theirs) if theirs == ours => None,
            Err(error) if error.kind() != Kind::NotFound => None,
            _ => Some(format!(
                "{} is on a BPF file system of this mount namespace alone (`ip netns exec` makes one \
                 for each command): weir's other programs find it only from here. To start them in \
                 a network namespace, use `nsenter --net=/run/netns/NAME`",
                self.directory.display()
            )),
        }
    }

    /// Path of a pin.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Holds off every other process that creates or removes pins here, until dropped.
    pub fn lock(&self) -> Result<Lock, Error> {
        let failed = |source| Error::Io { action: "lock", path: self.directory.clone(), source };
        let file = File::open(&self.directory).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(Lock { _file: file })
    }

    /// Removes every pin of weir's, and the directory unless it holds something else: XDP programs
    /// detach when their links go, maps vanish when the last process unmaps them. Says what it
    /// removed.
    pub fn remove(&self) -> Result<Vec<String>, Error> {
        let failed = |action, path: &Path, source| Error::Io { action, path: path.into(), source };
        let mut removed = Vec::new();
        if !self.directory.exists() {
            return Ok(removed);
        }
        let lock = self.lock()?;
        let entries =
            std::fs::read_dir(&self.directory).map_err(|e| failed("list", &self.directory, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| failed("list", &self.directory, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name::is_ours(&name) {
                std::fs::remove_file(entry.path())
                    .map_err(|e| failed("remove", &entry.path(), e))?;
                removed.push(name);
            }
        }
        let locks = Role::ALL.map(|role| self.path(role.directory()));
        for directory in locks.iter().chain([&self.directory]) {
            match std::fs::remove_dir(directory) {
                Err(error)
                    if !matches!(
                        error.kind(),
                        Kind::NotFound | Kind::DirectoryNotEmpty | Kind::ResourceBusy
                    ) =>
                {
                    return Err(failed("remove", directory, error));
                }
                _ => {}
            }
        }
        drop(lock);
        removed.sort();
        Ok(removed)
    }

    fn region(
        &self,
        name: &str,
        shape: Shape,
        any_entries: bool,
        access: Access,
        init: impl FnOnce(&Mmap),
    ) -> Result<(Mmap, Shape), Error> {
        let path = self.path(name);
        let entries = (!any_entries).then_some(shape.entries);
        if access == Access::Write {
            let _lock = self.lock()?;
            if !path.exists() {
                return Ok((map::create(&path, name, shape, init)?, shape));
            }
            return map::open(&path, "weir-control", shape.value_size, entries, access);
        }
        map::open(&path, "weir-control and weir-dataplane", shape.value_size, entries, access)
    }

    pub(crate) fn control(&self, access: Access) -> Result<Mmap, Error> {
        let header = RegionHeader::expected(RegionKind::Control, size_of::<ControlPage>());
        let shape = Shape { value_size: size_of::<ControlPage>() as u32, entries: 1 };
        let (mmap, _) = self.region(name::CONTROL, shape, false, access, |m| {
            write_header(m, 0, header);
        })?;
        self.check_header(name::CONTROL, &mmap, 0, header)?;
        Ok(mmap)
    }

    pub(crate) fn buckets(&self, access: Access) -> Result<Mmap, Error> {
        let entries = (BUCKET_BANKS * TABLES) as u32;
        let shape = Shape { value_size: BUCKETS as u32, entries };
        Ok(self.region(name::BUCKETS, shape, false, access, |_| ())?.0)
    }

    pub(crate) fn sets(&self, access: Access) -> Result<Mmap, Error> {
        let header = RegionHeader::expected(RegionKind::Sets, prefix_sets::REGION);
        let entries = (prefix_sets::REGION / prefix_sets::PAGE) as u32;
        let shape = Shape { value_size: prefix_sets::PAGE as u32, entries };
        let (mmap, _) = self.region(name::SETS, shape, false, access, |m| {
            write_header(m, 0, header);
        })?;
        self.check_header(name::SETS, &mmap, 0, header)?;
        Ok(mmap)
    }

    pub(crate) fn blocks(&self) -> Result<Mmap, Error> {
        let shape = Shape { value_size: size_of::<Blocks>() as u32, entries: Family::COUNT as u32 };
        Ok(self.region(name::BLOCKS, shape, false, Access::Write, |_| ())?.0)
    }

    pub(crate) fn status(&self, access: Access) -> Result<Mmap, Error> {
        let header = RegionHeader::expected(RegionKind::Status, size_of::<StatusPage>());
        let shape = Shape { value_size: size_of::<StatusPage>() as u32, entries: 1 };
        let (mmap, _) = self.region(name::STATUS, shape, false, access, |m| {
            write_header(m, 0, header);
        })?;
        self.check_header(name::STATUS, &mmap, 0, header)?;
        Ok(mmap)
    }

    pub(crate) fn counters(&self, access: Access) -> Result<Mmap, Error> {
        let header = RegionHeader::expected(RegionKind::Counters, size_of::<Lane>());
        let shape = Shape { value_size: size_of::<Lane>() as u32, entries: LANES as u32 };
        let at = std::mem::offset_of!(Lane, header);
        let (mmap, _) = self.region(name::COUNTERS, shape, false, access, |m| {
            for lane in 0..LANES {
                write_header(m, lane * size_of::<Lane>() + at, header);
            }
        })?;
        self.check_header(name::COUNTERS, &mmap, at, header)?;
        Ok(mmap)
    }

    pub(crate) fn observations(&self, access: Access) -> Result<Mmap, Error> {
        let size = size_of::<WorkerObservations>();
        let header = RegionHeader::expected(RegionKind::Observations, size);
        let shape = Shape { value_size: size as u32, entries: MAX_WORKERS as u32 };
        let (mmap, _) = self.region(name::OBSERVATIONS, shape, false, access, |m| {
            for worker in 0..MAX_WORKERS {
                write_header(m, worker * size, header);
            }
        })?;
        self.check_header(name::OBSERVATIONS, &mmap, 0, header)?;
        Ok(mmap)
    }

    /// The rings, and what is said of them.
    pub(crate) fn nat_log(&self, access: Access) -> Result<(Mmap, Mmap), Error> {
        let size = size_of::<Ring>();
        let header = RegionHeader::expected(RegionKind::NatLog, size);
        let shape = Shape { value_size: size as u32, entries: MAX_WORKERS as u32 };
        let (rings, _) = self.region(name::NAT_LOG, shape, false, access, |m| {
            for worker in 0..MAX_WORKERS {
                write_header(m, worker * size, header);
            }
        })?;
        self.check_header(name::NAT_LOG, &rings, 0, header)?;
        let header = RegionHeader::expected(RegionKind::NatLogRead, size_of::<Reader>());
        let shape = Shape { value_size: size_of::<Reader>() as u32, entries: 1 };
        let (reader, _) = self.region(name::NAT_LOG_READ, shape, false, access, |m| {
            write_header(m, 0, header);
        })?;
        self.check_header(name::NAT_LOG_READ, &reader, 0, header)?;
        Ok((rings, reader))
    }

    pub(crate) fn sysctls(&self, access: Access) -> Result<Mmap, Error> {
        let shape = Shape { value_size: 8, entries: 1 };
        Ok(self.region(name::SYSCTLS, shape, false, access, |_| ())?.0)
    }

    /// Opens a family's flow table, or creates one of `pages` pages; a table that exists keeps its
    /// size.
    pub(crate) fn flows<F: Stored>(
        &self,
        pages: u32,
        access: Access,
    ) -> Result<(Mmap, Shape), Error> {
        let value_size = size_of::<[Slot<F>; PAGE as usize]>() as u32;
        let shape = Shape { value_size, entries: pages };
        self.region(name::flows(F::FAMILY), shape, true, access, |_| ())
    }

    /// As [`Self::flows`], for the tags of `pages` pages.
    pub(crate) fn tags<F: Stored>(
        &self,
        pages: u32,
        access: Access,
    ) -> Result<(Mmap, Shape), Error> {
        let value_size = size_of::<[TagWord; PAGE_GROUPS as usize]>() as u32;
        let shape = Shape { value_size, entries: pages };
        self.region(name::tags(F::FAMILY), shape, true, access, |_| ())
    }

    pub(crate) fn adjacencies(&self, access: Access) -> Result<Mmap, Error> {
        let shape = Shape { value_size: 8, entries: ADJACENCIES as u32 };
        Ok(self.region(name::ADJACENCIES, shape, false, access, |_| ())?.0)
    }

    pub(crate) fn allowances(&self, access: Access) -> Result<Mmap, Error> {
        let shape = Shape { value_size: size_of::<u64>() as u32, entries: SOCKETS as u32 };
        Ok(self.region(name::ALLOWANCES, shape, false, access, |_| ())?.0)
    }

    pub(crate) fn check_header(
        &self,
        name: &str,
        mmap: &Mmap,
        offset: usize,
        expected: RegionHeader,
    ) -> Result<(), Error> {
        let found = read_header(mmap, offset);
        if found == expected {
            return Ok(());
        }
        let text = |h: RegionHeader| {
            format!(
                "layout {} (magic {:#x}, kind {}, {} bytes)",
                h.version, h.magic, h.kind, h.size
            )
        };
        Err(Error::Layout { path: self.path(name), found: text(found), expected: text(expected) })
    }
}

/// Exclusive right to create and remove pins in a directory.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Mounts the BPF file system, unless another process that starts at the same time was first: the
/// second mount would hide what is pinned in the first.
fn mount() -> std::io::Result<()> {
    let directory = File::open(BPFFS)?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
    if !is_bpffs(Path::new(BPFFS)) {
        // Without the mode anybody may make directories there (kernel/bpf/inode.c: 01777).
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700"))?;
    }
    Ok(())
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == BPF_FS_MAGIC)
}

pub(crate) fn write_header(mmap: &Mmap, offset: usize, header: RegionHeader) {
    crate::map::store(mmap, offset, &header);
}

pub(crate) fn read_header(mmap: &Mmap, offset: usize) -> RegionHeader {
    crate::map::load(mmap, offset)
}
