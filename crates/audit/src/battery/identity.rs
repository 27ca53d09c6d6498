//! Who a process of a cell is, and what it may.

use super::{Row, Scene, danger, one};
use cofferdam_sandbox::{Danger, Protection, probe::Attempt};
use cofferdam_sys::{
    attempt::Argument::{Bytes, Number},
    seccomp::call,
};

/// `KEYCTL_GET_KEYRING_ID` of the session keyring, which is -3.
const SESSION: u64 = (-3_i64).cast_unsigned();
const CORE: u64 = 4;
const NOTHING: &str = "0000000000000000";

pub(super) fn rows(_: &Scene) -> Vec<Row> {
    let status = |id, title, field: &str| Row {
        id,
        title,
        attempt: Attempt::Status { field: field.into(), holds: NOTHING.into() },
        layers: vec![one(Protection::Capabilities)],
    };
    vec![
        status("identity.effective", "hold an effective capability", "CapEff"),
        status("identity.permitted", "hold a permitted capability", "CapPrm"),
        status("identity.ambient", "pass a capability on by exec", "CapAmb"),
        status("identity.bounding", "regain a capability by a set-id program", "CapBnd"),
        // The session keyring of whoever started the host may hold keys.
        Row {
            id: "identity.keyring",
            title: "name a session keyring",
            attempt: Attempt::Call {
                number: call::SYS_keyctl,
                arguments: vec![Number(0), Number(SESSION), Number(0)],
            },
            layers: vec![one(Protection::AllowList)],
        },
        Row {
            id: "identity.add-key",
            title: "add a key to a keyring",
            attempt: Attempt::Reach {
                number: call::SYS_add_key,
                arguments: vec![Number(0); 5],
                filtered: vec![38, 1],
            },
            layers: vec![one(Protection::AllowList)],
        },
        // Programs that are easier to attack.
        Row {
            id: "identity.personality",
            title: "switch address randomisation off",
            attempt: Attempt::Call { number: call::SYS_personality, arguments: vec![Number(0x004_0000)] },
            layers: vec![danger(Danger::Personality)],
        },
        // With a core limit of 0 the kernel starts the host's helper.
        Row {
            id: "identity.core-helper",
            title: "have the host's core dump helper started",
            attempt: Attempt::Call {
                number: call::SYS_setrlimit,
                arguments: vec![Number(CORE), Bytes(vec![0; 16])],
            },
            layers: vec![danger(Danger::Limits)],
        },
        Row {
            id: "identity.foreign-limits",
            title: "read the limits of init",
            attempt: Attempt::Call {
                number: call::SYS_prlimit64,
                arguments: vec![Number(1), Number(0), Number(0), Bytes(vec![0; 16])],
            },
            layers: vec![danger(Danger::Limits)],
        },
    ]
}
