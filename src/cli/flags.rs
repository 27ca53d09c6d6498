//! What a person can type: one table, no meaning yet.

use super::{
    models::{Model, Usage},
    policy::Policy,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use cofferdam_base::{
    Role, SecretName, TenantId,
    binding::{Binding, FileName, Format, Place, Resource, Spot, Variable},
    canary::Like,
    kind::{Aws, Endpoint, Kind, Oauth, Word},
};
use std::path::PathBuf;

const EVERYWHERE: &str = "Options of every command";

/// Hosts AI agent gateways for tenants who do not trust each other, each in a sealed cell.
#[derive(Debug, Parser)]
#[command(
    name = "cofferdam",
    version,
    max_term_width = 80,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Flags {
    /// The host's data directory [default: /var/lib/cofferdam as root, else
    /// the XDG data directory]
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A throw-away host on loopback: tenants acme and globex, a built-in model
    Demo {
        /// What runs in the cells
        #[arg(long, value_enum, default_value = "native")]
        runtime: DemoRuntime,
    },
    /// Make a data directory with a commented cofferdam.toml
    Init,
    /// Run the host in the foreground
    Serve,
    /// Tell what this machine can enforce, and what mends the rest
    ///
    /// Each feature with what it buys and who needs it; with --data-dir also what
    /// state that directory is in. Changes nothing.
    ///
    /// Exit status: 0 fine, 2 degraded (a host starts and does not keep all of
    /// SPECIFICATION.md), 3 a host cannot run.
    #[command(verbatim_doc_comment)]
    Doctor,
    /// The host at a glance
    Status,
    /// Tenants and their cells
    #[command(subcommand)]
    Tenant(Tenant),
    /// Tokens with which clients connect to a tenant
    #[command(subcommand)]
    Token(Token),
    /// Canaries: values in a cell that look like keys; sending one freezes the cell
    #[command(subcommand)]
    Canary(Canary),
    /// Secrets, used by a tenant's warden and never seen in its cell
    #[command(subcommand)]
    Secret(Secret),
    /// The proxy through which this host dials (`[egress] upstream_proxy`)
    #[command(subcommand)]
    UpstreamProxy(UpstreamProxy),
    /// Where a tenant's http(s)://inference.local/v1 leads, and what it may use
    #[command(subcommand)]
    Model(Model),
    /// What a tenant's cell may reach
    #[command(subcommand)]
    Policy(Policy),
    /// Connections that wait for somebody's answer
    #[command(subcommand)]
    Approvals(Approvals),
    /// What can run in cells
    #[command(subcommand)]
    Runtime(Runtime),
    /// Show that the seal of a tenant's cell holds: three hundred attacks, each with a
    /// control; exits 0 if it holds, 1 if not, 2 if it could not be tried
    Prove(Prove),
    /// Freeze a tenant's cell, close all its connections, revoke its tokens and grants
    ///
    /// Holds over every restart until `tenant resume`. A cell that cannot be frozen
    /// is killed. Exit status: 0 all was done, 1 not all; what was not is said.
    #[command(verbatim_doc_comment)]
    Kill {
        /// Whom
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        tenant: Option<TenantId>,
        /// Every tenant
        #[arg(long)]
        all: bool,
        /// Why, for the ledger
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Tokens used and what they cost
    Usage(Usage),
    /// The record of everything that was decided
    #[command(subcommand)]
    Ledger(Ledger),
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportRuntime {
    /// The gateway that is in this program
    Native,
    /// Upstream's gateway
    Openclaw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DemoRuntime {
    /// The gateway that is in this program
    Native,
    /// Upstream's gateway, installed from npm at the first run
    Openclaw,
    /// A small HTTP and WebSocket echo server
    Command,
}

/// Exits 0 if everything holds, 1 if something does not, 2 if it could not be tried.
/// What escapes bars the tenant's next start, unless [[accepted]] of cofferdam.toml
/// names it; a later proof that finds nothing lifts the bar.
#[derive(Debug, Args)]
pub(crate) struct Prove {
    /// Whose cell; its sibling is tried, in a world of its own
    pub(crate) tenant: Option<TenantId>,
    /// Write the signed proof here
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Leave out each protection alone, and see whether it is missed
    #[arg(long)]
    pub(crate) mutants: bool,
    /// Check a signed proof; needs no host
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tenant", "out", "mutants"])]
    pub(crate) verify: Option<PathBuf>,
    /// Tell what is worse than in an older proof
    #[arg(long, value_name = "OLD")]
    pub(crate) diff: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Make a tenant
    Create {
        /// 1 to 40 of a-z, 0-9 and '-'
        id: TenantId,
        /// native, openclaw, or command:NAME of cofferdam.toml
        #[arg(long, default_value = "openclaw")]
        runtime: String,
        /// Start it and wait until it is ready
        #[arg(long)]
        start: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// Make a tenant of an existing OpenClaw home
    ///
    /// DIR is the home (~/.openclaw), its gateway stopped. Workspace, memory, skills
    /// and conversations come along; credentials do not: for each, the command that
    /// puts it into the vault is shown. Nothing or all of it is imported, and the
    /// tenant is stopped then.
    #[command(verbatim_doc_comment)]
    Import {
        /// The home
        dir: PathBuf,
        /// The new tenant: 1 to 40 of a-z, 0-9 and '-'
        #[arg(long, value_name = "ID")]
        tenant: TenantId,
        /// What runs in its cell
        #[arg(long, value_enum, default_value = "native")]
        runtime: ImportRuntime,
        /// Only show what would be carried, changed and left; needs no host
        #[arg(long)]
        dry_run: bool,
        /// Show every row, not the first few
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// List tenants
    List,
    /// One tenant with the seal of its cell
    Show { id: TenantId },
    /// Start a tenant's cell and wait until it is ready
    Start { id: TenantId },
    /// Stop a tenant's cell
    Stop { id: TenantId },
    /// Stop and start
    Restart { id: TenantId },
    /// Let a killed tenant run again, in a new cell; its old tokens stay revoked
    Resume { id: TenantId },
    /// Change what a tenant may use, in its running cell where that can be
    Limits {
        id: TenantId,
        #[command(flatten)]
        limits: Limits,
    },
    /// Delete a tenant with all its files
    Delete {
        id: TenantId,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// What the tenant's cell printed
    Logs {
        id: TenantId,
        /// Go on as it grows
        #[arg(long, short)]
        follow: bool,
        /// Leave terminal control sequences in
        #[arg(long)]
        raw: bool,
    },
    /// Run a command inside a tenant's cell, under its seal
    Exec {
        id: TenantId,
        /// Leave terminal control sequences in its output
        #[arg(long)]
        raw: bool,
        /// Give it a terminal
        #[arg(long, short)]
        tty: bool,
        /// Program and arguments
        #[arg(required = true, last = true)]
        argv: Vec<String>,
    },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// What is not given is as [limits] of cofferdam.toml says, or as it was.
#[derive(Debug, Args)]
#[group(id = "wanted")]
pub(crate) struct Limits {
    /// Memory in MiB, /tmp included (openclaw: 2048 by default)
    #[arg(long, value_name = "MIB", value_parser = super::parse::mebibytes)]
    pub(crate) memory: Option<u64>,
    /// Size of /tmp in MiB
    #[arg(long, value_name = "MIB", value_parser = super::parse::mebibytes)]
    pub(crate) tmp: Option<u64>,
    /// Processes and threads
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u32>,
    /// CPU time in hundredths of a core: 150 is one and a half
    #[arg(long, value_name = "PERCENT")]
    pub(crate) cpu: Option<u32>,
    /// Open files a process
    #[arg(long, value_name = "N")]
    pub(crate) files: Option<u32>,
    /// MiB a second read from the disk, and as many written to it
    #[arg(long, value_name = "MIB", value_parser = super::parse::mebibytes)]
    pub(crate) io: Option<u64>,
    /// Size of /sandbox in MiB
    #[arg(long, value_name = "MIB", value_parser = super::parse::mebibytes)]
    pub(crate) disk: Option<u64>,
    /// Files, directories and links in /sandbox; by default they follow --disk
    #[arg(long, value_name = "N")]
    pub(crate) inodes: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Issue a token; it is shown once
    Issue {
        tenant: TenantId,
        /// For whom
        #[arg(long)]
        subject: String,
        /// viewer, member, approver or admin
        #[arg(long, default_value = "member")]
        role: Role,
        /// For how long: 90s, 15m, 12h, 30d
        #[arg(long = "for", default_value = "12h", value_name = "TIME", value_parser = super::parse::seconds)]
        ttl: u64,
    },
    /// List tokens (never their text)
    List {
        /// Only this tenant's
        tenant: Option<TenantId>,
    },
    /// Revoke a token; its connections close within a second
    Revoke {
        /// As `token list` shows it
        jti: String,
    },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Set a secret; its value is read from standard input
    Set {
        tenant: TenantId,
        name: SecretName,
        /// What it is for, if it is not bound [default: model]
        #[arg(long, conflicts_with = "bind")]
        purpose: Option<String>,
        #[command(flatten)]
        bound: Box<Bound>,
    },
    /// List names and versions
    List { tenant: TenantId },
    /// Remove a secret
    Rm { tenant: TenantId, name: SecretName },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Canary {
    /// Plant a canary, or plant it anew; it is in the cell from its next start on
    ///
    /// Choose a name that nothing in the cell uses: whatever sends the canary out,
    /// to the model included, freezes the cell.
    Add {
        tenant: TenantId,
        name: SecretName,
        /// Whose key it looks like: aws, github or openai
        #[arg(long, value_name = "KIND", default_value = "aws")]
        like: Like,
        /// The variable of the cell that holds it
        #[arg(long, value_name = "NAME", required_unless_present = "file")]
        env: Option<Variable>,
        /// The file of the cell, below /opt/credentials, that holds it
        #[arg(long, value_name = "NAME")]
        file: Option<FileName>,
    },
    /// List a tenant's canaries
    List { tenant: TenantId },
    /// Remove a canary
    Rm { tenant: TenantId, name: SecretName },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpstreamProxy {
    /// Set its credentials, USER:PASSWORD, read from standard input
    ///
    /// They are sealed by the master key and given to every warden: a tenant who
    /// takes over a warden learns them.
    #[command(verbatim_doc_comment)]
    Set,
    /// Show where it is, what goes without it, and whether it has credentials
    Show,
    /// Forget its credentials
    Rm,
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// A secret that is bound is nowhere in the cell: a placeholder is, and the warden
/// puts the secret in its place where it is bound, and there only.
#[derive(Debug, Args)]
pub(crate) struct Bound {
    /// Where it may be sent: host[:port][/path], https unless it begins with
    /// http://; in a path, * is any segment and ** any rest
    #[arg(long, value_name = "PLACE", requires = "how")]
    pub(crate) bind: Option<Place>,
    /// Where in the request: header:NAME, query:NAME, path or body (JSON, forms, text)
    #[arg(long = "in", id = "spot", value_name = "SPOT", requires = "bind", group = "how")]
    pub(crate) spot: Option<Spot>,
    /// How it is written there, "Bearer {}" for example [default: {}]
    #[arg(long, value_name = "FORMAT", requires = "bind")]
    pub(crate) format: Option<Format>,
    /// A parameter that the query must have, once, with this value
    #[arg(long, value_name = "NAME=VALUE", requires = "bind")]
    pub(crate) resource: Option<Resource>,
    /// The value is an OAuth refresh token, and what is sent are access tokens
    /// that the warden gets for it at this https://host/path. The value is
    /// {"refresh_token": "…"}, with "client_secret" if the client has one
    #[arg(long, value_name = "URL", requires = "spot", requires = "client_id")]
    pub(crate) oauth: Option<Endpoint>,
    /// The client that the refresh token was granted to
    #[arg(long, value_name = "ID", requires = "oauth")]
    pub(crate) client_id: Option<Word>,
    /// What access tokens are to be good for, if less than what was granted
    #[arg(long, value_name = "WORDS", requires = "oauth")]
    pub(crate) scope: Option<Word>,
    /// The value are AWS keys, and the warden signs what is sent, for this
    /// SERVICE/REGION (or SERVICE/*): a client that signs with the placeholder as
    /// its access key, or has it for its Authorization. The value is
    /// {"access_key_id": "…", "secret_access_key": "…"}, with "session_token" for
    /// keys that end
    #[arg(long, value_name = "SCOPE", requires = "bind", group = "how", conflicts_with = "format")]
    pub(crate) aws: Option<Aws>,
    /// The cell's variable that holds the placeholder, from its next start on
    #[arg(long, value_name = "NAME", requires = "bind")]
    pub(crate) env: Option<Variable>,
    /// The file of the cell, below /opt/cofferdam/placeholders, that holds it
    #[arg(long, value_name = "NAME", requires = "bind")]
    pub(crate) file: Option<FileName>,
}

impl Bound {
    pub(crate) fn binding(self) -> Option<Binding> {
        let Self { bind, spot, format, resource, oauth, client_id, scope, aws, env, file } = self;
        let format = format.or_else(|| "{}".parse().ok())?;
        let spot = if aws.is_some() { "header:authorization".parse().ok() } else { spot };
        let oauth = oauth.zip(client_id);
        let oauth = oauth.map(|(endpoint, client_id)| Kind::Oauth(Oauth { endpoint, client_id, scope }));
        let kind = oauth.or(aws.map(Kind::Aws));
        Some(Binding { to: bind?, spot: spot?, format, resource, env, file, kind })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Approvals {
    /// What waits for an answer
    List {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
        /// What is over as well
        #[arg(long)]
        all: bool,
    },
    /// Print each as it changes
    Watch {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Let it through
    Approve {
        /// The number that `approvals list` shows
        id: u64,
        #[command(flatten)]
        span: Span,
        /// Why, for the ledger
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Refuse it
    Deny {
        /// The number that `approvals list` shows
        id: u64,
        /// What the client in the cell is told
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Post what is asked, and what becomes of it, somewhere
    #[command(subcommand)]
    Webhook(Webhook),
    /// Take a yes back, and close what goes through it
    Revoke {
        /// The number that `approvals list --all` shows
        id: u64,
    },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Webhook {
    /// Set a tenant's webhook; its warden posts there
    Set {
        /// The tenant
        tenant: TenantId,
        /// http(s)://HOST[:PORT]/PATH
        url: String,
        /// The secret of purpose webhook that signs: HMAC-SHA256
        #[arg(long, value_name = "NAME")]
        secret: SecretName,
    },
    /// Where it leads, and what waits
    Show {
        /// The tenant
        tenant: TenantId,
    },
    /// Remove it, and what waits
    Remove {
        /// The tenant
        tenant: TenantId,
    },
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Span {
    /// One connection, of plain HTTP the one request (the default)
    #[arg(long)]
    pub(crate) once: bool,
    /// Any number for this time: 90s, 15m, 1h, 7d
    #[arg(long = "for", value_name = "TIME", value_parser = super::parse::seconds)]
    pub(crate) for_seconds: Option<u64>,
    /// Any number until the cell stops or is started anew
    #[arg(long)]
    pub(crate) cell: bool,
    /// For ever, as a rule of the policy
    #[arg(long)]
    pub(crate) always: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Runtime {
    /// Install a runtime: openclaw, or openclaw@VERSION; compare one that is there
    /// with its seal
    Install {
        /// openclaw is the release that this one was tested with; a release
        /// that has no lock yet gets one, which is shown
        #[arg(default_value = "openclaw")]
        what: String,
    },
    /// What is installed
    List,
    /// Hash what is installed and compare it with its seal
    Verify,
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ledger {
    /// The last rows
    Tail {
        /// Go on as rows come
        #[arg(long, short)]
        follow: bool,
        /// How many
        #[arg(long, short = 'n', default_value_t = 20)]
        count: u32,
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Check every link of the chain
    Verify,
    /// Anything else: perhaps a command of the design that is not built yet
    #[command(external_subcommand)]
    Other(Vec<String>),
}
