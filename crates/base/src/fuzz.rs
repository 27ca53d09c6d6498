//! What must hold of any packet on the internal wires, for `fuzz/`.
//!
//! It owns no parser: it reads as `cofferdam_sys::channel` reads. The threat is a process that was broken by
//! hostile bytes and now sends what it likes: no packet may panic its reader, be read back as another one
//! after it was written, grow without bound, or carry a path to the launcher.

use crate::ipc::{edge, launcher, warden};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Everything that the launcher hears or says.
pub fn launcher_wires(packet: &[u8]) {
    if let Some((command, text)) = stable::<launcher::Command>(packet) {
        use launcher::{Command, RuntimeRef};
        // An argument vector runs after the seal, and a runtime's name is looked up in a table; nothing else
        // that control says could name a file.
        let free = match &command {
            Command::Exec(_) => true,
            Command::StartCell(order) => matches!(order.runtime, RuntimeRef::Command(_)),
            _ => false,
        };
        assert!(free || !text.contains(['/', '\\']), "a path to the launcher: {text}");
    }
    stable::<launcher::Event>(packet);
    stable::<edge::SocketRequest>(packet);
    stable::<edge::Feed>(packet);
    stable::<warden::Feed>(packet);
}

/// Everything between control on one side and edge or wardens on the other.
pub fn control_wires(packet: &[u8]) {
    stable::<edge::Config>(packet);
    stable::<edge::Report>(packet);
    stable::<warden::Command>(packet);
    stable::<Vec<warden::Report>>(packet);
}

/// Reads a packet, writes it and reads that: the same message.
fn stable<T: DeserializeOwned + Serialize + PartialEq + Debug>(packet: &[u8]) -> Option<(T, String)> {
    let message: T = serde_json::from_slice(packet).ok()?;
    let text = serde_json::to_string(&message).expect("what was read can be written");
    // Defaults are written out, and an address may be spelled one digit longer.
    assert!(text.len() <= 2 * packet.len() + 512, "{} bytes became {}", packet.len(), text.len());
    let again: T = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(again, message, "read back as another message");
    Some((message, text))
}
