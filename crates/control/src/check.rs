//! Control's checks of who may say what, each by a name of its own, so that tests can show that each is missed.
//!
//! Not among them is what the types insist on: a wire is its tenant's, whatever is said on it, and a name that no tenant
//! has opens none.

cofferdam_base::checks! {
    /// Whoever answers shows a token that control signed.
    AnswerSigned,
    /// An answer is given at the tenant whose token it is.
    AnswerTenant,
    /// A token that was revoked answers nothing.
    AnswerRevoked,
    /// A token that control never recorded answers nothing.
    AnswerIssued,
    /// Whose role may not approve says nothing.
    AnswerRole,
    /// An answer is to a question of its own tenant.
    AnswerOwn,
    /// An answer is to what was shown.
    AnswerShown,
    /// A yes is of whom the policy leaves it to.
    AnswerApprover,
    /// A yes for ever to a model's soft limit is none.
    AnswerForEver,
    /// No cell is started over what escaped.
    Escaped,
    /// A proof of other layers than the host's lifts no bar.
    OtherLayers,
    /// A warden speaks for its own tenant.
    WardenTenant,
    /// A warden's first message is its hello.
    WardenHello,
    /// What a warden shows of a request can be read in one way only.
    WardenShows,
}
