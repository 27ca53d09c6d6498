//! The controllers of version 1, each in a hierarchy of its own.
//!
//! The threat: what version 1 counts apart (swap, the buffers of TCP) or not at all (what is written back later);
//! the first is set too, the second is said.

use super::controller::{Controller, Held, Wanted, in_use, number, write};
use cofferdam_base::ipc::launcher::Usage;
use std::{fs, io, path::Path};

#[derive(Debug)]
pub(super) struct Memory;
#[derive(Debug)]
pub(super) struct Cpu;
/// `blkio`.
#[derive(Debug)]
pub(super) struct Io;

const LIMIT: &str = "memory.limit_in_bytes";
const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
const TCP: &str = "memory.kmem.tcp.limit_in_bytes";

impl Controller for Memory {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let bytes = wanted.limits.memory_bytes;
        let counts_swap = group.join(WITH_SWAP).exists();
        if !counts_swap && has_swap()? {
            return Err(io::Error::other("swap is on and this kernel does not count it (swapaccount=1)"));
        }
        // That with swap is never the smaller one: it goes first where both rise.
        let rises = number(group, LIMIT)?.is_some_and(|now| bytes > now);
        let mut order = vec![LIMIT];
        if counts_swap {
            order.insert(usize::from(!rises), WITH_SWAP);
        }
        if group.join(TCP).exists() {
            order.push(TCP);
        }
        for file in order {
            write(group, file, &bytes.to_string()).map_err(|error| match error.kind() {
                io::ErrorKind::ResourceBusy => in_use(group, used(group), bytes),
                _ => error,
            })?;
        }
        Ok(Held::enforced(format!("{bytes} bytes, v1")))
    }

    fn usage(&self, group: &Path, usage: &mut Usage) -> io::Result<()> {
        usage.memory_bytes = Some(used(group));
        Ok(())
    }
}

fn used(group: &Path) -> u64 {
    number(group, "memory.usage_in_bytes").ok().flatten().unwrap_or(0)
}

fn has_swap() -> io::Result<bool> {
    Ok(fs::read_to_string("/proc/swaps")?.lines().count() > 1)
}

/// Version 1 counts its use in yet another hierarchy; version 2 counts it in every group.
impl Controller for Cpu {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let percent = wanted.limits.cpu_percent;
        write(group, "cpu.cfs_quota_us", &(u64::from(percent) * 1000).to_string())?;
        if let Some(weight) = wanted.weight {
            // 1024 where version 2 has 100.
            write(group, "cpu.shares", &(u64::from(weight) * 1024 / 100).to_string())?;
        }
        Ok(Held::enforced(format!("{percent} %, v1")))
    }
}

impl Controller for Io {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let Some((major, minor)) = wanted.disk else {
            return Ok(Held::absent("the data directory lies on no disk of its own".to_owned()));
        };
        let bytes = wanted.limits.io_bytes;
        for file in ["blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device"] {
            write(group, file, &format!("{major}:{minor} {bytes}"))?;
        }
        Ok(Held::partial(format!(
            "{bytes} bytes a second read and written directly; v1 does not know whose a buffered write is"
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::controller::tests::{group, wanted};
    use super::*;
    use cofferdam_base::ipc::receipt::LayerState;

    #[test]
    fn memory_is_set_with_its_swap_and_its_tcp_buffers() {
        let group = group(&[(LIMIT, "9223372036854771712"), (WITH_SWAP, "9223372036854771712"), (TCP, "0")]);
        Memory.set(group.path(), &wanted()).unwrap();
        for file in [LIMIT, WITH_SWAP, TCP] {
            assert_eq!(fs::read_to_string(group.path().join(file)).unwrap(), (1_u64 << 30).to_string());
        }
    }

    #[test]
    fn the_share_of_the_processors_is_a_quota_of_time() {
        let group = group(&[]);
        Cpu.set(group.path(), &wanted()).unwrap();
        assert_eq!(fs::read_to_string(group.path().join("cpu.cfs_quota_us")).unwrap(), "200000");
    }

    #[test]
    fn io_says_that_it_holds_in_part_and_where_there_is_no_disk_that_it_does_not() {
        let group = group(&[]);
        let held = Io.set(group.path(), &wanted()).unwrap();
        assert_eq!(held.state, LayerState::Partial);
        let written = fs::read_to_string(group.path().join("blkio.throttle.write_bps_device")).unwrap();
        assert_eq!(written, format!("8:16 {}", 256 << 20));
        let none = Io.set(group.path(), &Wanted { disk: None, ..wanted() }).unwrap();
        assert_eq!(none.state, LayerState::Absent);
    }
}
