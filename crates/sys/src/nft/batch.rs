//! A transaction of nf_tables: all of its messages take effect, or none.

use super::{NftError, expression::Expression};
use crate::netlink::{
    message::Message,
    wire::{ACK, REQUEST, Wire},
};
use std::{io, os::fd::OwnedFd};

/// One transaction over one table of family `inet`.
#[derive(Debug)]
pub(super) struct Batch {
    table: String,
    /// The finished messages; the first is the beginning, which a number's message follows.
    messages: Vec<Vec<u8>>,
    /// What each message is about, for errors.
    labels: Vec<String>,
}

/// Where the kernel calls a base chain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    Prerouting,
    Output,
}

const SUBSYSTEM: u16 = 10;
const INET: u8 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const ACCEPT: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_INTERVAL: u32 = 4;
const INTERVAL_END: u32 = 1;

impl Batch {
    pub(super) fn new(table: &str) -> Self {
        let mut batch = Self { table: table.into(), messages: Vec::new(), labels: Vec::new() };
        // The subsystem's number, in network order.
        let fixed = [0, 0, 0, 10];
        batch.messages.push(Message::new(BATCH_BEGIN, REQUEST, 0, &fixed).finish());
        batch.labels.push("the transaction".into());
        batch
    }

    /// Makes the table if it is not there.
    pub(super) fn new_table(&mut self) {
        let name = self.table.clone();
        self.push(NEW_TABLE, CREATE, format!("table {name}"), |message| {
            message.text(1, &name);
            message.be32(2, 0);
        });
    }

    /// Removes the table and all in it.
    pub(super) fn delete_table(&mut self) {
        let name = self.table.clone();
        self.push(DELETE_TABLE, 0, format!("the removal of table {name}"), |message| message.text(1, &name));
    }

    /// Adds a chain that the kernel calls; what no rule decides is accepted.
    pub(super) fn base_chain(&mut self, name: &str, hook: Hook, priority: i32) {
        let table = self.table.clone();
        self.push(NEW_CHAIN, CREATE, format!("chain {name}"), |message| {
            message.text(1, &table);
            message.text(3, name);
            message.nest(4, |nest| {
                nest.be32(1, if matches!(hook, Hook::Prerouting) { 0 } else { 3 });
                nest.be32(2, priority.cast_unsigned());
            });
            message.be32(5, ACCEPT);
            message.text(7, "filter");
        });
    }

    /// Adds a chain that rules go to.
    pub(super) fn chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.push(NEW_CHAIN, CREATE, format!("chain {name}"), |message| {
            message.text(1, &table);
            message.text(3, name);
        });
    }

    /// Appends a rule to a chain. `label` says in words what it does.
    pub(super) fn rule(&mut self, chain: &str, label: &str, expressions: &[Expression]) {
        let table = self.table.clone();
        self.push(NEW_RULE, CREATE | APPEND, format!("the rule {label:?}"), |message| {
            message.text(1, &table);
            message.text(2, chain);
            message.nest(4, |list| expressions.iter().for_each(|expression| expression.encode(list)));
        });
    }

    /// Adds a set of ranges, first and last address, that neither touch nor overlap and go upwards.
    /// `type_code` is 7 for IPv4 and 8 for IPv6 addresses.
    pub(super) fn intervals(&mut self, name: &str, id: u32, type_code: u32, ranges: &[(Vec<u8>, Vec<u8>)]) {
        let table = self.table.clone();
        let length = ranges.first().map_or(0, |range| u32::try_from(range.0.len()).unwrap_or(0));
        self.push(NEW_SET, CREATE, format!("set {name}"), |message| {
            message.text(1, &table);
            message.text(2, name);
            message.be32(3, SET_CONSTANT | SET_INTERVAL);
            message.be32(4, type_code);
            message.be32(5, length);
            message.be32(10, id);
        });
        let element = |list: &mut Message, key: &[u8], end: bool| {
            list.nest(1, |element| {
                element.nest(1, |data| data.attribute(1, key));
                if end {
                    element.be32(3, INTERVAL_END);
                }
            });
        };
        self.push(NEW_ELEMENTS, CREATE, format!("the elements of set {name}"), |message| {
            message.text(1, &table);
            message.text(2, name);
            message.be32(4, id);
            message.nest(3, |list| {
                for (first, last) in ranges {
                    element(list, first, false);
                    // The end is the first address that is outside; the last of all addresses has none.
                    if let Some(after) = successor(last) {
                        element(list, &after, true);
                    }
                }
            });
        });
    }

    /// The transaction as bytes; its last message asks to be acknowledged.
    pub(super) fn bytes(mut self) -> (Vec<u8>, u32, Vec<String>) {
        let last = self.messages.len() - 1;
        let flags = u16::from_ne_bytes([self.messages[last][6], self.messages[last][7]]) | ACK;
        self.messages[last][6..8].copy_from_slice(&flags.to_ne_bytes());
        let end = Message::new(BATCH_END, REQUEST, number(self.messages.len()), &[0, 0, 0, 10]).finish();
        self.messages.push(end);
        (self.messages.concat(), number(last), self.labels)
    }

    /// Sends the transaction in this thread's network namespace. It is in force when this returns; to close
    /// the socket takes until the kernel has put the old one away.
    pub(super) fn commit(self) -> Result<OwnedFd, NftError> {
        let wire = Wire::open(Some(rustix::net::netlink::NETFILTER)).map_err(NftError::Absent)?;
        let (bytes, last, labels) = self.bytes();
        wire.acknowledged(&bytes, last).map_err(|(sequence, source)| explain(sequence, source, &labels))?;
        Ok(wire.into())
    }

    fn push(&mut self, kind: u16, flags: u16, label: String, fill: impl FnOnce(&mut Message)) {
        let kind = SUBSYSTEM << 8 | kind;
        let mut message = Message::new(kind, REQUEST | flags, number(self.messages.len()), &[INET, 0, 0, 0]);
        fill(&mut message);
        self.messages.push(message.finish());
        self.labels.push(label);
    }
}

/// An error about the transaction as such, "no such subsystem", is about a kernel without nf_tables.
fn explain(sequence: u32, source: io::Error, labels: &[String]) -> NftError {
    if sequence == 0 && source.raw_os_error() == Some(libc::EOPNOTSUPP) {
        return NftError::Absent(source);
    }
    let at = usize::try_from(sequence).unwrap_or(usize::MAX);
    let what = labels.get(at).map_or("the transaction", String::as_str).to_owned();
    NftError::Refused { what, source }
}

/// The number of the message at this place.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// The address after this one.
fn successor(address: &[u8]) -> Option<Vec<u8>> {
    let mut next = address.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_nf_tables_is_told_from_a_refused_part() {
        let labels = ["the transaction", "table x"].map(String::from);
        let error = |number| io::Error::from_raw_os_error(number);
        assert!(matches!(explain(0, error(libc::EOPNOTSUPP), &labels), NftError::Absent(_)));
        let refused = explain(1, error(libc::EOPNOTSUPP), &labels);
        assert!(matches!(refused, NftError::Refused { what, .. } if what == "table x"));
        assert!(matches!(explain(0, error(libc::EPERM), &labels), NftError::Refused { .. }));
    }
}
