//! The controllers of version 2, all in one group.
//!
//! The threat: a limit below what is used, at which version 2 kills where version 1 refuses; so it is refused
//! here. What is written back later is the cell's only if memory is version 2's too; if not, that is said.

use super::controller::{Controller, Held, Wanted, field, in_use, number, write};
use cofferdam_base::ipc::launcher::Usage;
use std::{io, path::Path};

#[derive(Debug)]
pub(super) struct Memory;
#[derive(Debug)]
pub(super) struct Cpu;
#[derive(Debug)]
pub(super) struct Io;

/// What of a group's memory the kernel cannot give back.
const HELD: [&str; 4] = ["anon", "shmem", "kernel", "sock"];

impl Controller for Memory {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let bytes = wanted.limits.memory_bytes;
        if number(group, "memory.max")?.is_none_or(|now| bytes < now) {
            let held = HELD.iter().map(|name| field(group, "memory.stat", name));
            let held: u64 = held.sum::<io::Result<u64>>()?;
            if held > bytes {
                return Err(in_use(group, held, bytes));
            }
        }
        write(group, "memory.max", &bytes.to_string())?;
        write(group, "memory.oom.group", "0")?;
        // Without swap in the kernel the file is not there, and there is none to take.
        if group.join("memory.swap.max").exists() {
            write(group, "memory.swap.max", "0")?;
        }
        Ok(Held::enforced(format!("{bytes} bytes, no swap, v2")))
    }

    fn usage(&self, group: &Path, usage: &mut Usage) -> io::Result<()> {
        usage.memory_bytes = number(group, "memory.current")?;
        Ok(())
    }
}

impl Controller for Cpu {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let percent = wanted.limits.cpu_percent;
        write(group, "cpu.max", &format!("{} 100000", u64::from(percent) * 1000))?;
        if let Some(weight) = wanted.weight {
            write(group, "cpu.weight", &weight.to_string())?;
        }
        Ok(Held::enforced(format!("{percent} %, v2")))
    }

    /// Every group of version 2 has the file, also where the controller is another hierarchy's.
    fn usage(&self, group: &Path, usage: &mut Usage) -> io::Result<()> {
        usage.cpu_ms = Some(field(group, "cpu.stat", "usage_usec")? / 1000);
        Ok(())
    }
}

impl Controller for Io {
    fn set(&self, group: &Path, wanted: &Wanted) -> io::Result<Held> {
        let Some((major, minor)) = wanted.disk else {
            return Ok(Held::absent("the data directory lies on no disk of its own".to_owned()));
        };
        let bytes = wanted.limits.io_bytes;
        write(group, "io.max", &format!("{major}:{minor} rbps={bytes} wbps={bytes}"))?;
        Ok(if wanted.attributed {
            Held::enforced(format!("{bytes} bytes a second read and written, v2"))
        } else {
            Held::partial(format!(
                "{bytes} bytes a second read and written directly; memory is v1's, which does not tell v2 whose a \
                 buffered write is"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::controller::tests::{group, wanted};
    use super::*;
    use cofferdam_base::ipc::receipt::LayerState;
    use std::fs;

    const STAT: &str = "anon 1000\nfile 5000000000\nkernel 500\nshmem 20\nsock 0\n";

    #[test]
    fn memory_is_set_without_swap() {
        let group = group(&[("memory.max", "max\n"), ("memory.stat", STAT), ("memory.swap.max", "max\n")]);
        Memory.set(group.path(), &wanted()).unwrap();
        let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        assert_eq!(read("memory.max"), (1_u64 << 30).to_string());
        assert_eq!((read("memory.swap.max"), read("memory.oom.group")), ("0".into(), "0".into()));
    }

    #[test]
    fn memory_goes_below_no_use_that_cannot_be_given_back_and_the_old_limit_holds() {
        let stat = format!("anon {}\nfile 0\nshmem 20\n", 2_u64 << 30);
        let group = group(&[("memory.max", "4294967296\n"), ("memory.stat", &stat)]);
        let refused = Memory.set(group.path(), &wanted()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(fs::read_to_string(group.path().join("memory.max")).unwrap(), "4294967296\n");
    }

    #[test]
    fn the_formats_of_the_others_are_version_twos() {
        let group = group(&[("memory.current", "4096\n"), ("cpu.stat", "usage_usec 2500\nuser_usec 2000\n")]);
        Cpu.set(group.path(), &wanted()).unwrap();
        let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        assert_eq!(read("cpu.max"), "200000 100000");
        let mut usage = Usage::default();
        for controller in [&Memory as &dyn Controller, &Cpu] {
            controller.usage(group.path(), &mut usage).unwrap();
        }
        assert_eq!((usage.memory_bytes, usage.cpu_ms), (Some(4096), Some(2)));
    }

    #[test]
    fn io_holds_wholly_only_where_memory_is_version_twos_too() {
        let group = group(&[]);
        let whole = Io.set(group.path(), &wanted()).unwrap();
        assert_eq!(whole.state, LayerState::Enforced);
        let written = fs::read_to_string(group.path().join("io.max")).unwrap();
        assert_eq!(written, format!("8:16 rbps={0} wbps={0}", 256 << 20));
        let part = Io.set(group.path(), &Wanted { attributed: false, ..wanted() }).unwrap();
        assert_eq!(part.state, LayerState::Partial);
    }
}
