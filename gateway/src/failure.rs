//! Why the program ends without having done its work, with the exit code that says what kind of reason it is.

use std::io;
use std::process::ExitCode;

use ace_gateway::config::SettingsError;
use ace_gateway::listen::ListenError;
use ace_gateway::node::StartError;
use ace_gateway::prices::PricesError;
use ace_gateway::state::StateError;
use ace_policies::bind::Refusal;

/// `EX_TEMPFAIL` of sysexits.h: what is in the way may be gone later.
const EXIT_IN_THE_WAY: u8 = 75;
/// `EX_CONFIG`: the operator must change something.
const EXIT_CONFIG: u8 = 78;

/// A reason to end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The public port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Nobody but this host may reach a gateway without credentials.
    #[error("{0}")]
    Exposure(#[from] Refusal),
    /// The database.
    #[error(transparent)]
    Database(#[from] ace_migrations::Error),
    /// The master key.
    #[error(transparent)]
    Key(#[from] ace_control_api::keys::KeyError),
    /// The control API's own start.
    #[error("{0}")]
    Control(String),
    /// The data plane's start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The price table.
    #[error(transparent)]
    Prices(#[from] PricesError),
    /// What the operator must change.
    #[error("{0}")]
    Config(String),
    /// Anything of the system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Failure {
    /// Says it on standard error.
    pub fn tell(&self) -> ExitCode {
        eprintln!("ace-gateway: {self}");
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::Exposure(_)
            | Self::Key(_)
            | Self::Config(_)
            | Self::Listen(ListenError::Mode(_)) => EXIT_CONFIG,
            Self::Start(StartError::Egress(_) | StartError::Prices(_)) | Self::Prices(_) => EXIT_CONFIG,
            Self::State(StateError::InUse(_)) | Self::Listen(ListenError::InUse(_)) => EXIT_IN_THE_WAY,
            _ => 1,
        }
    }
}
