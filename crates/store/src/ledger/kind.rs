//! What a row can tell, as one table: each kind, and whether a full disk still takes it.
//!
//! The threat: a kind that somebody adds and nobody thinks of, so that a full disk hides a denial, or takes
//! what is granted. A kind outside this table is written nowhere by control.

macro_rules! kinds {
    ($($kind:ident $word:literal $essential:literal $what:literal)*) => {
        /// What a row tells.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $what] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The word in the row.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $word,)* }
            }

            /// Is it still written when the disk is full, into the room kept back? So is what was refused,
            /// taken away or stopped, and what is missing from the ledger.
            pub const fn is_essential(self) -> bool {
                match self { $(Self::$kind => $essential,)* }
            }
        }
    };
}

impl Kind {
    /// The kind of this word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }

    /// Does it tell of a change to the state database, which a crash may have kept from happening?
    pub const fn is_change(self) -> bool {
        match self {
            Self::ApprovalAsked
            | Self::ApprovalGranted
            | Self::ApprovalUsed
            | Self::ApprovalDenied
            | Self::ApprovalRevoked
            | Self::ApprovalExpired
            | Self::ApprovalStale
            | Self::TenantCreated
            | Self::TenantImported
            | Self::TenantStart
            | Self::TenantStop
            | Self::TenantRestart
            | Self::TenantKilled
            | Self::Tripped
            | Self::TenantResumed
            | Self::LimitsSet
            | Self::Proved
            | Self::Escaped
            | Self::TenantDelete
            | Self::TenantDeleted
            | Self::PolicySet
            | Self::SecretSet
            | Self::SecretRemoved
            | Self::ModelSet
            | Self::WebhookSet
            | Self::TokenIssued
            | Self::TokenRevoked
            | Self::StartCell => true,
            Self::MakeHome
            | Self::RemoveHome
            | Self::StartWarden
            | Self::StopWarden
            | Self::StopCell
            | Self::KillOrphan
            | Self::HostSecretSet
            | Self::HostSecretRemoved
            | Self::KeyReleased
            | Self::CellReady
            | Self::CellNotReady
            | Self::CellEnded
            | Self::WardenEnded
            | Self::WardenLost
            | Self::Failed
            | Self::ConfigDrift
            | Self::CellSealed
            | Self::Allow
            | Self::Hold
            | Self::Use
            | Self::Deny
            | Self::Usage
            | Self::Edge
            | Self::EdgeRefused
            | Self::Forged
            | Self::Undelivered
            | Self::Gap
            | Self::Undone
            | Self::Recovered
            | Self::Counted
            | Self::Unkept => false,
        }
    }

    /// Does it tell what a warden recorded, under the warden's own number?
    pub const fn is_record(self) -> bool {
        matches!(self, Self::Allow | Self::Hold | Self::Use | Self::Deny)
    }
}

kinds! {
    // What people and cells do to approvals.
    ApprovalAsked "approval_asked" false "A cell asked for something."
    ApprovalGranted "approval_granted" false "Somebody said yes."
    ApprovalUsed "approval_used" false "A once-grant was spent."
    ApprovalDenied "approval_denied" true "Somebody said no."
    ApprovalRevoked "approval_revoked" true "A yes was taken back."
    ApprovalExpired "approval_expired" true "Nobody answered, or nobody used it, in time."
    ApprovalStale "approval_stale" true "The policy moved on, and a question or a yes under it is over."
    // What operators do.
    TenantCreated "tenant_created" false "A tenant was made."
    TenantImported "tenant_imported" false "A tenant's home is whole: what was imported is in it."
    TenantStart "tenant_start" false "A tenant is to run."
    TenantStop "tenant_stop" true "A tenant is to be stopped."
    TenantRestart "tenant_restart" false "A tenant's cell is to be started anew."
    Tripped "canary_tripped" true "A canary was about to be sent."
    TenantKilled "tenant_killed" true "A tenant was ended by the kill switch, and its tokens revoked."
    TenantResumed "tenant_resumed" false "A killed tenant may run again."
    LimitsSet "limits_set" false "A tenant's limits were changed, or put back when they could not hold."
    TenantDelete "tenant_delete" true "A tenant is to be deleted."
    TenantDeleted "tenant_deleted" true "Nothing is left of a tenant."
    PolicySet "policy_set" false "A policy was set."
    SecretSet "secret_set" false "A secret was set or rotated."
    SecretRemoved "secret_removed" true "A secret was removed."
    HostSecretSet "host_secret_set" false "A secret of the host itself is to be set."
    HostSecretRemoved "host_secret_removed" true "A secret of the host itself is to be removed."
    ModelSet "model_set" false "The model route was set or removed."
    WebhookSet "webhook_set" false "Where approvals are posted was set or removed."
    TokenIssued "token_issued" false "A token was issued."
    TokenRevoked "token_revoked" true "A token was revoked."
    Proved "proved" false "A seal was proved: nothing escaped, and the proof was signed."
    Escaped "escaped" true "A proof found what escapes; no cell of the tenant starts until a later one finds nothing."
    // What control has the launcher do.
    MakeHome "make_home" false "A home is made."
    RemoveHome "remove_home" true "A home is removed, which makes room."
    StartWarden "start_warden" false "A warden is started."
    StopWarden "stop_warden" true "A warden is stopped."
    StartCell "start_cell" false "A cell is started."
    StopCell "stop_cell" true "A cell is stopped."
    KillOrphan "kill_orphan" true "A cell or warden that no tenant owns is killed."
    KeyReleased "key_released" false "A warden gets its tenant's data key."
    // What happened by itself.
    CellReady "cell_ready" false "A runtime answers."
    CellNotReady "cell_not_ready" true "A runtime did not answer in time."
    CellEnded "cell_ended" true "A cell ended."
    WardenEnded "warden_ended" true "A warden ended; its last records may be lost."
    WardenLost "warden_lost" true "A warden's wire ended; its last records may be lost."
    Failed "failed" true "A step failed."
    CellSealed "cell_sealed" true "A cell was built; its receipt says how far each layer holds."
    ConfigDrift "config_drift" true "A gateway's configuration had been changed, and was written anew."
    // What wardens and the edge report.
    Allow "allow" false "A connection was let through."
    Hold "hold" false "A connection is held."
    Use "use" false "A secret or a model's route was used, and no row of a request names it."
    Deny "deny" true "A connection was refused."
    Usage "usage" false "A model counted tokens."
    Edge "edge" false "The edge let somebody in, or a connection ended."
    EdgeRefused "edge_refused" true "The edge turned somebody away."
    Forged "forged" true "A cell sent its client what only the host says."
    Undelivered "undelivered" true "What was to be posted to a webhook was given up."
    // What is missing.
    Gap "gap" true "Records of a warden or of the edge are missing."
    Undone "undone" true "What an earlier row tells did not happen."
    Recovered "recovered" true "A torn end was cut off when the ledger was opened; the body says how many bytes."
    Counted "counted" true "So many rows of a tenant over its daily budget were counted and not kept."
    Unkept "unkept" false "So many rows found no room on the disk while it was full."
}
