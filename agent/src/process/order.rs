//! What a guard is told, and how it is written down on its standard input.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Something for a guard to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Hands bytes to the CLI's standard input.
    Write(Vec<u8>),
    /// Closes the CLI's standard input once all is written.
    Close,
    /// Sends a signal to the CLI and all its descendants.
    Sign(Sign),
    /// Ends the CLI and all its descendants: asks, waits for so many milliseconds, kills.
    End(u64),
}

/// What is done to all processes of a CLI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// Holds them where they are.
    Pause,
    /// Lets them go on.
    Continue,
    /// Interrupts them, as Ctrl-C does.
    Interrupt,
}

impl Sign {
    const ALL: [(Self, &str); 3] = [
        (Self::Pause, "pause"),
        (Self::Continue, "continue"),
        (Self::Interrupt, "interrupt"),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(sign, _)| *sign == self)
            .map_or("", |(_, name)| name)
    }
}

impl Order {
    /// A line of text; for a write the bytes after it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Write(bytes) => {
                let mut order = format!("write {}\n", bytes.len()).into_bytes();
                order.extend_from_slice(bytes);
                order
            }
            Self::Close => b"close\n".to_vec(),
            Self::Sign(sign) => format!("{}\n", sign.name()).into_bytes(),
            Self::End(grace_ms) => format!("end {grace_ms}\n").into_bytes(),
        }
    }

    /// The next order; none when the other side is gone, be it in the middle of one.
    pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line).await? == 0 || !line.ends_with('\n') {
            return Ok(None);
        }
        match line.trim_end().split_once(' ') {
            Some(("write", length)) => {
                let mut bytes = vec![0; length.parse().map_err(io::Error::other)?];
                from.read_exact(&mut bytes).await?;
                Ok(Some(Self::Write(bytes)))
            }
            Some(("end", grace_ms)) => grace_ms
                .parse()
                .map(|grace| Some(Self::End(grace)))
                .map_err(io::Error::other),
            None if line == "close\n" => Ok(Some(Self::Close)),
            _ => Self::sign(line.trim_end()).map(Some),
        }
    }

    fn sign(name: &str) -> io::Result<Self> {
        let found = Sign::ALL.iter().find(|(_, known)| *known == name);
        found
            .map(|(sign, _)| Self::Sign(*sign))
            .ok_or_else(|| io::Error::other("an order that is none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_arrive_as_they_were_given() {
        let orders = [
            Order::Write(b"a\nend 0\n\xff".to_vec()),
            Order::Write(Vec::new()),
            Order::Close,
            Order::Sign(Sign::Pause),
            Order::Sign(Sign::Continue),
            Order::Sign(Sign::Interrupt),
            Order::End(5000),
        ];
        let bytes: Vec<u8> = orders.iter().flat_map(Order::encode).collect();
        let mut reader = bytes.as_slice();
        for order in orders {
            assert_eq!(Order::read(&mut reader).await.unwrap(), Some(order));
        }
        assert_eq!(Order::read(&mut reader).await.unwrap(), None);
    }

    #[tokio::test]
    async fn half_an_order_is_none() {
        assert_eq!(Order::read(&mut b"end 50".as_slice()).await.unwrap(), None);
        assert!(Order::read(&mut b"write 5\nab".as_slice()).await.is_err());
        assert!(Order::read(&mut b"dance\n".as_slice()).await.is_err());
    }
}
