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
}

/// What is needed to start any target, as often as wanted.
pub struct Fleet {
    pub mock: Mock,
    pub kinds: Vec<Kind>,
    gateway_bin: Option<PathBuf>,
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
    pub fn new(mock: Mock, kinds: &[Kind], gateway_bin: Option<PathBuf>) -> anyhow::Result<Self> {
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
        })
    }

    pub fn start(&self, kind: Kind) -> anyhow::Result<Started> {
        let directory = tempfile::tempdir()?;
        let provider = self.mock.address;
        let (endpoint, running) = match (kind, &self.gateway_bin) {
            (Kind::Nginx, _) => nginx::start(provider, directory.path())?,
            (Kind::Gateway, Some(executable)) => gateway::start(executable, provider, directory.path())?,
            (Kind::Direct, _) | (Kind::Gateway, None) => {
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
        let gateway = self.gateway_bin.as_deref().map(gateway::version);
        nginx.into_iter().chain(gateway).flatten().collect()
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Gateway => "gateway",
        }
    }
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
