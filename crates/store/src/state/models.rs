//! Inference routes: by which names a tenant's cell asks, and which of them is the default.
//!
//! It keeps them as they come. The first is the default until another is chosen, and there is never none while there
//! are routes.

use super::{
    Tables,
    rows::{all, count, json, number, text},
};
use crate::Error;
use cofferdam_base::{
    Millis, TenantId,
    ipc::model::{Alias, ModelRoute},
};
use rusqlite::params;

/// A route as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The route.
    pub route: ModelRoute,
    /// Since when.
    pub at: Millis,
    /// It is the default.
    pub main: bool,
}

impl Tables<'_> {
    /// A tenant's routes, by name.
    pub fn routes(&self, id: &TenantId) -> Result<Vec<RouteRow>, Error> {
        let query = self.0.prepare("SELECT * FROM routes WHERE tenant = ?1 ORDER BY alias")?;
        all(query, [id.as_str()], |row| {
            Ok(RouteRow {
                route: json(row, "route")?,
                at: Millis(count(row, "at")?),
                main: row.get::<_, i64>("main")? == 1,
            })
        })
    }

    /// Keeps a route in place of the one of its name.
    pub fn set_route(&self, id: &TenantId, route: &ModelRoute, at: Millis) -> Result<(), Error> {
        self.must_exist(id)?;
        self.0.execute(
            "INSERT INTO routes (tenant, alias, route, at, main)
             VALUES (?1, ?2, ?3, ?4, NOT EXISTS (SELECT 1 FROM routes WHERE tenant = ?1))
             ON CONFLICT (tenant, alias) DO UPDATE SET route = ?3, at = ?4",
            params![id.as_str(), route.route.as_str(), text(route)?, number(at.0)?],
        )?;
        Ok(())
    }

    /// Removes a route; false if there is none. The default goes last.
    pub fn remove_route(&self, id: &TenantId, alias: &Alias) -> Result<bool, Error> {
        let sql = "DELETE FROM routes WHERE tenant = ?1 AND alias = ?2
                   AND (main = 0 OR (SELECT count(*) FROM routes WHERE tenant = ?1) = 1)";
        Ok(self.0.execute(sql, [id.as_str(), alias.as_str()])? > 0)
    }

    /// Makes a route the default; false if there is none of this name.
    pub fn set_default_route(&self, id: &TenantId, alias: &Alias) -> Result<bool, Error> {
        let there = "SELECT count(*) FROM routes WHERE tenant = ?1 AND alias = ?2";
        let known: i64 = self.0.query_row(there, [id.as_str(), alias.as_str()], |row| row.get(0))?;
        if known == 0 {
            return Ok(false);
        }
        self.0.execute("UPDATE routes SET main = 0 WHERE tenant = ?1", [id.as_str()])?;
        let sql = "UPDATE routes SET main = 1 WHERE tenant = ?1 AND alias = ?2";
        Ok(self.0.execute(sql, [id.as_str(), alias.as_str()])? > 0)
    }
}
