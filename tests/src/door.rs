//! The way into a gateway: its address, and the authority that vouches for it where it speaks TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::{Answer, Ask, Ca, End, H2Client, Wire};

/// Opens connections to one address.
#[derive(Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub(crate) ca: Option<Arc<Ca>>,
}

impl Door {
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, ca: None }
    }

    pub async fn wire(&self) -> Wire {
        match &self.ca {
            None => Wire::connect(self.address).await,
            Some(ca) => Wire::connect_tls(self.address, ca).await,
        }
    }

    pub async fn h2(&self) -> H2Client {
        match &self.ca {
            None => H2Client::connect(self.address).await,
            Some(ca) => H2Client::connect_tls(self.address, ca).await,
        }
    }

    /// Sends a request as it stands, on a connection of its own.
    pub async fn call(&self, ask: &Ask) -> Answer {
        self.wire().await.call(ask).await
    }
    /// The same where the gateway may die any moment.
    ///
    /// # Errors
    /// How the connection ended before there was an answer.
    pub async fn try_call(&self, ask: &Ask) -> Result<Answer, End> {
        let mut wire = Wire::try_connect(self.address).await?;
        wire.ask(ask).await.try_answer_to(&ask.method).await
    }
}
