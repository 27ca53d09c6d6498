//! The warden's own checks, each by a name of its own, so that tests can show that each is missed: which models a cell
//! may ask, and how much. What leaves besides is egress's and inference's, and has its names there.

cofferdam_base::checks! {
    /// A configuration is for this warden's tenant.
    OwnTenant,
    /// A route that the policy does not name is not asked.
    RouteAsked,
    /// Nor is it fallen back to.
    RouteChain,
    /// Nor is one that went while the request was under way.
    RouteNow,
    /// A route ends at its budget.
    RouteBudget,
    /// All routes together end at theirs.
    WholeBudget,
    /// What was used before this start counts.
    UsedBefore,
    /// Past a soft limit somebody is asked.
    SoftLimit,
    /// Where money is limited no dearer class of service is asked for.
    Dearer,
}
