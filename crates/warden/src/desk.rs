//! Control's wire: its commands take effect here, and what the warden has to say goes out.

use crate::{
    Error,
    check::{Check, keeps},
    keys::Keys,
    model::Model,
    oauth::Tokens,
    outbox::Outbox,
    webhook::Delivery,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cofferdam_base::{
    Certificate, TenantId,
    ipc::warden::{Command, Configuration, Report},
};
use cofferdam_egress::{
    Egress, Limits, Refusal, Rules,
    dial::{Dialler, NameServers, Tcp},
    proxy::{Credentials, Proxy},
};
use cofferdam_policy::{Guard, Policy, Reason};
use cofferdam_sys::channel::{AsyncChannel, ChannelError, exactly};
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

/// Everything that a command may change.
#[derive(Clone, Debug)]
pub(crate) struct Office {
    pub(crate) tenant: TenantId,
    pub(crate) egress: Arc<Egress>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) model: Arc<Model>,
    pub(crate) tokens: Arc<Tokens>,
}

impl Office {
    /// Serves one wire to control until it ends. A wire that ends takes nothing away but the power to spend.
    pub(crate) async fn serve(self, wire: AsyncChannel) {
        let _attached = Attached::new(&self);
        let result = tokio::select! {
            result = self.listen(&wire) => result,
            result = self.speak(&wire) => result,
        };
        match result {
            Ok(()) => tracing::info!("control closed its wire"),
            Err(error) => tracing::warn!(%error, "the wire to control ended"),
        }
    }

    async fn speak(&self, wire: &AsyncChannel) -> Result<(), Error> {
        loop {
            let reports = self.outbox.next().await;
            match wire.send(&reports, &[]).await {
                // One by one they fit.
                Err(ChannelError::TooLong(_)) => {
                    for report in reports.chunks(1) {
                        wire.send(&report, &[]).await?;
                        self.outbox.sent(report);
                    }
                }
                sent => {
                    sent?;
                    self.outbox.sent(&reports);
                }
            }
        }
    }

    async fn listen(&self, wire: &AsyncChannel) -> Result<(), Error> {
        while let Some((command, descriptors)) = wire.recv::<Command>().await? {
            self.obey(command, descriptors).await?;
        }
        Ok(())
    }

    async fn obey(&self, command: Command, descriptors: Vec<OwnedFd>) -> Result<(), Error> {
        if let Command::DataKey {} = command {
            let [pipe] = exactly(descriptors)?;
            let authority = self.keys.receive(pipe).await?;
            self.egress.inspector.set_authority(Arc::new(authority));
            self.egress.set_credentials(self.keys.credentials());
            self.egress.set_watch(self.keys.watch());
            return Ok(());
        }
        let [] = exactly(descriptors)?;
        let gate = &self.egress.gate;
        match command {
            Command::Configure(configuration) => {
                let revision = configuration.revision;
                let error = self.configure(configuration).err();
                let authority = self.egress.inspector.certificate();
                let authority = authority.and_then(|der| Certificate::try_from(STANDARD.encode(der)).ok());
                self.outbox.say(Report::Configured { revision, error, authority });
            }
            // Taken above, with its descriptor.
            Command::DataKey {} => {}
            Command::ProxyCredentials { credentials } => {
                let opened = credentials.map(|sealed| self.keys.unseal(&sealed)).transpose()?;
                self.egress.set_proxy_credentials(opened.map(Credentials::new));
            }
            Command::Secrets { secrets } => {
                self.keys.seal(secrets);
                self.egress.set_credentials(self.keys.credentials());
                self.egress.set_watch(self.keys.watch());
            }
            Command::Models { routes, spent, by_all } => self.model.set_routes(routes, spent, by_all),
            Command::TestModel { test, route } => {
                let office = self.clone();
                tokio::spawn(async move {
                    let tested = office.model.test(&route).await;
                    office.outbox.say(Report::Tested { test, tested });
                });
            }
            Command::Grant(grant) => gate.grant(grant),
            Command::Revoke { grant } => gate.revoke(grant),
            Command::Waiting { approval, destination } => {
                tracing::debug!(approval, %destination, "an approval waits");
            }
            Command::Refuse { approval, destination, reason } => {
                let code = Reason::ALL.iter().copied().find(|known| known.code() == reason);
                let by = approval.map_or_else(|| "approval".to_owned(), |id| format!("approval {id}"));
                let refusal = match code {
                    Some(code) => Refusal::new(code, by),
                    None => Refusal::new(Reason::DeniedByPerson, by).said(reason),
                };
                gate.refuse_held(&destination, refusal);
            }
            Command::Spent { grant, ok } => gate.spent(grant, ok),
            Command::Recorded { through } => self.outbox.recorded(through),
            Command::Counted { through } => self.outbox.counted(through),
            Command::Post { delivery: number, url, secret, body } => {
                let delivery = Delivery { number, url, secret, body };
                tokio::spawn(self.clone().post(delivery));
            }
            Command::Ready {} => gate.ready(),
        }
        Ok(())
    }

    /// Puts a configuration in force, or says why not; then the one before stays in force.
    pub(crate) fn configure(&self, configuration: Configuration) -> Result<(), String> {
        let Configuration {
            tenant,
            policy,
            revision: _,
            ceiling,
            nameservers,
            operator_private,
            upstream_proxy,
            host_addresses,
            hold_ms,
            relays,
            holds,
            names_per_second,
        } = configuration;
        if tenant != self.tenant && keeps(Check::OwnTenant) {
            return Err(format!("this is the warden of {}, not of {tenant}", self.tenant));
        }
        let policy = Policy::parse(&policy).map_err(|error| error.to_string())?;
        let ceiling = ceiling.map(|text| Policy::ceiling(&text)).transpose();
        let ceiling = ceiling.map_err(|error| format!("the ceiling: {error}"))?;
        let policy = policy.under(ceiling.map(Arc::new));
        let operator_private = operator_private
            .iter()
            .map(|network| network.parse())
            .collect::<Result<_, _>>()
            .map_err(|error: cofferdam_policy::Error| error.to_string())?;
        let proxy = upstream_proxy.map(|proxy| Proxy::new(&proxy, Box::new(Tcp))).transpose()?;
        let names = NameServers::new(&nameservers).map_err(|error| error.to_string())?;
        let rules = Rules { policy, guard: Guard { operator_private, host_addresses } };
        let limits = Limits {
            relays: rules.policy.connections(relays).try_into().unwrap_or(usize::MAX),
            holds: holds.try_into().unwrap_or(usize::MAX),
            hold: Duration::from_millis(hold_ms.into()),
            names_per_second,
        };
        self.egress.set_proxy(proxy);
        self.egress.set_dialler(Dialler { names: Box::new(names), connect: Box::new(Tcp) });
        self.egress.gate.configure(Arc::new(rules), limits);
        self.egress.inspector.forget();
        Ok(())
    }
}

/// The wire is up; when it goes, or its task is ended, it is down.
struct Attached<'a>(&'a Office);

impl<'a> Attached<'a> {
    fn new(office: &'a Office) -> Self {
        office.outbox.attach(office.egress.gate.begin_snapshot());
        office.tokens.say_again();
        Self(office)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.outbox.detach();
        self.0.egress.gate.wire_lost();
    }
}
