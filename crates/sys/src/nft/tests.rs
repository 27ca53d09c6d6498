//! Golden bytes: what goes to the kernel for both tables, one message a line. What the bytes mean is proved by
//! `tests/capture.rs` and `tests/guard.rs`.
#![allow(clippy::unwrap_used)]

use super::{cell, guard, *};

/// One line for each message: kind, length, label, and its bytes.
fn dump(batch: batch::Batch) -> String {
    use std::fmt::Write;
    let (bytes, last, labels) = batch.bytes();
    let mut text = format!("last {last}\n");
    let mut rest = &bytes[..];
    let mut place = 0;
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(rest[..4].try_into().unwrap())).unwrap();
        let hex = rest[..length].iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(text, "{}: {hex}", labels.get(place).map_or("the end", String::as_str)).unwrap();
        rest = &rest[length..];
        place += 1;
    }
    text
}

#[test]
fn the_cells_table_is_these_bytes() {
    let table = CellTable { capture_port: 15001, gateway_port: 18789, mark: 0x0cff_e4da };
    assert_eq!(dump(cell::batch(table)), include_str!("golden/cell.txt"));
}

#[test]
fn the_hosts_guard_is_these_bytes() {
    let firewall = UidFirewall {
        table: "cofferdam-guard".into(),
        uids: 100_000..=165_535,
        nameservers: vec!["127.0.0.53:53".parse().unwrap(), "[2620:fe::fe]:53".parse().unwrap()],
        proxy: None,
        opened: vec!["10.9.0.0/16".parse().unwrap()],
    };
    assert_eq!(dump(guard::batch(&firewall)), include_str!("golden/guard.txt"));
}
