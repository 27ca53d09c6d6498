//! Devices that were let in.

use super::{Error, Store};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub id: String,
    pub public_key: String,
    /// Whose it is.
    pub user: String,
    pub client_id: String,
    pub client_mode: String,
    pub platform: String,
    pub name: Option<String>,
    /// What it may at most.
    pub scopes: Vec<String>,
    /// How it came in.
    pub approved_via: String,
    pub approved_at: u64,
    pub seen_at: u64,
    /// The digest of its token, and since when it has it.
    pub token: Option<(Vec<u8>, u64)>,
}

const DEVICE: &str =
    "SELECT id, public_key, user, client_id, client_mode, platform, name, scopes, approved_via,
    approved_at, seen_at, token, token_at FROM devices";

fn device(row: &Row<'_>) -> rusqlite::Result<Device> {
    let time = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let token: Option<Vec<u8>> = row.get(11)?;
    Ok(Device {
        id: row.get(0)?,
        public_key: row.get(1)?,
        user: row.get(2)?,
        client_id: row.get(3)?,
        client_mode: row.get(4)?,
        platform: row.get(5)?,
        name: row.get(6)?,
        scopes: row.get::<_, String>(7)?.split(' ').filter(|it| !it.is_empty()).map(str::to_owned).collect(),
        approved_via: row.get(8)?,
        approved_at: time(9)?,
        seen_at: time(10)?,
        token: token.map(|token| Ok::<_, rusqlite::Error>((token, time(12)?))).transpose()?,
    })
}

fn put(db: &Connection, device: &Device) -> rusqlite::Result<usize> {
    let kept = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
    let mut put = db.prepare_cached(
        "INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    put.execute(params![
        device.id,
        device.public_key,
        device.user,
        device.client_id,
        device.client_mode,
        device.platform,
        device.name,
        device.scopes.join(" "),
        device.approved_via,
        kept(device.approved_at),
        kept(device.seen_at),
        device.token.as_ref().map(|token| &token.0),
        device.token.as_ref().map(|token| kept(token.1)),
    ])
}

impl Store {
    /// A device by its id.
    pub fn device(&self, id: &str) -> Result<Option<Device>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{DEVICE} WHERE id = ?1"))?;
        Ok(select.query_row([id], device).optional()?)
    }

    /// All of them, the latest first.
    pub fn devices(&self) -> Result<Vec<Device>, Error> {
        let db = self.db();
        let mut select = db.prepare_cached(&format!("{DEVICE} ORDER BY approved_at DESC, id"))?;
        Ok(select.query_map([], device)?.collect::<Result<_, _>>()?)
    }

    /// Keeps one, new or changed.
    pub fn put_device(&self, device: &Device) -> Result<(), Error> {
        put(&self.db(), device)?;
        Ok(())
    }

    /// Forgets one; false if there was none.
    pub fn remove_device(&self, id: &str) -> Result<bool, Error> {
        Ok(self.db().execute("DELETE FROM devices WHERE id = ?1", [id])? > 0)
    }
}
