//! What stands between the generator and the mock: nothing, nginx, or the gateway.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{gateway, load::Endpoint, mock::Mock, nginx, process::Running};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Direct,
    Nginx,
    Gateway,
    /// Another build of the gateway.
    Other,
}

/// What is needed to start any target, as often as wanted.
pub struct Fleet {
    pub mock: Mock,
    pub kinds: Vec<Kind>,
    gateway_bin: Option<PathBuf>,
    other_bin: Option<PathBuf>,
}

/// A target that answers; its process ends with it.
pub struct Started {
    pub endpoint: Endpoint,
    _running: Option<(Running, tempfile::TempDir)>,
}

/// The provider's key that nginx and the gateway put in.
pub const PROVIDER_KEY: &str = "sk-bench-0123456789abcdef0123456789abcdef";

impl Fleet {
    /// Makes sure that nginx is there and the gateway is built, where they are wanted.
    pub fn new(
        mock: Mock,
        kinds: &[Kind],
        gateway_bin: Option<PathBuf>,
        other_bin: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let wants_other = kinds.contains(&Kind::Other);
        anyhow::ensure!(
            !wants_other || other_bin.is_some(),
            "name the other gateway's executable with --other-bin"
        );
        if kinds.contains(&Kind::Nginx) {
            nginx::ensure_installed()?;
        }
        let gateway_bin = match (kinds.contains(&Kind::Gateway), gateway_bin) {
            (false, _) => None,
            (true, Some(path)) => Some(path),
            (true, None) => Some(gateway::build()?),
        };
        Ok(Self {
            mock,
            kinds: kinds.to_vec(),
            gateway_bin,
            other_bin: other_bin.filter(|_| wants_other),
        })
    }

    pub fn start(&self, kind: Kind) -> anyhow::Result<Started> {
        let directory = tempfile::tempdir()?;
        let provider = self.mock.address;
        let executable = match kind {
            Kind::Other => &self.other_bin,
            _ => &self.gateway_bin,
        };
        let (endpoint, running) = match (kind, executable) {
            (Kind::Nginx, _) => nginx::start(provider, directory.path())?,
            (Kind::Gateway | Kind::Other, Some(executable)) => gateway::start(executable, provider, directory.path())?,
            (Kind::Direct, _) | (Kind::Gateway | Kind::Other, None) => {
                let endpoint = Endpoint {
                    address: provider,
                    token: PROVIDER_KEY.to_owned(),
                    pid: None,
                };
                return Ok(Started {
                    endpoint,
                    _running: None,
                });
            }
        };
        Ok(Started {
            endpoint,
            _running: Some((running, directory)),
        })
    }

    /// The versions of what is measured.
    pub fn versions(&self) -> Vec<String> {
        let nginx = self.kinds.contains(&Kind::Nginx).then(nginx::version);
        let gateways = [&self.gateway_bin, &self.other_bin].into_iter().flatten();
        let gateways = gateways.map(|executable| gateway::version(executable));
        nginx.into_iter().chain(gateways).flatten().collect()
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Gateway => "gateway",
            Self::Other => "other",
        }
    }
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
