//! Whether the gateway may be reached from outside this host: only with safe credentials.

use std::net::SocketAddr;

use super::EXIT_CONFIG;

/// What is known about the credentials before anything listens. The default is the worst case: nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AuthState {
    /// The admins' passwords.
    pub admin: AdminAccount,
    /// Whether a shared token is configured, resolved and no placeholder.
    pub token: bool,
    /// Whether a shared password is configured, resolved and no placeholder.
    pub password: bool,
    /// Whether trusted-proxy mode is completely configured.
    pub trusted_proxy: bool,
    /// Where the encryption key comes from.
    pub encryption_key: EncryptionKey,
    /// Whether other nodes share the database: PostgreSQL, or a gateway without its own control API.
    pub several_nodes: bool,
    /// Whether this is `demo`, whose passwords are printed.
    pub demo: bool,
}

/// The state of the admin accounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AdminAccount {
    /// There is none, or its password was generated and never changed.
    #[default]
    NotSafe,
    /// An admin has the password that is published in documentation (`admin123`).
    PublishedPassword,
    /// An admin has changed the first password, or was given one by `OPENACE_ADMIN_PASSWORD`.
    Safe,
}

/// Where the encryption key comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EncryptionKey {
    /// There is none.
    #[default]
    Missing,
    /// It was generated into a file that only its owner may read.
    GeneratedFile,
    /// It is derived from `SECRET_KEY`.
    SecretKey,
    /// `SECRET_KEY` has the value that is published in documentation.
    PublishedSecretKey,
    /// It is given by `OPENACE_ENCRYPTION_KEY` or `vault.key`.
    Explicit,
}

/// Refuses addresses beyond loopback without safe credentials, and nodes that do not share one encryption key.
pub fn check_exposure(addresses: &[SocketAddr], auth: &AuthState) -> Result<(), Refusal> {
    if auth.several_nodes && auth.encryption_key != EncryptionKey::Explicit {
        return Err(Refusal::MissingEncryptionKey);
    }
    match addresses
        .iter()
        .find(|address| !address.ip().to_canonical().is_loopback())
    {
        Some(exposed) => check_credentials(*exposed, auth),
        None => Ok(()),
    }
}

fn check_credentials(exposed: SocketAddr, auth: &AuthState) -> Result<(), Refusal> {
    if auth.demo {
        return Err(Refusal::DemoIsLocal(exposed));
    }
    if auth.admin == AdminAccount::PublishedPassword {
        return Err(Refusal::DefaultAdminPassword(exposed));
    }
    match auth.encryption_key {
        EncryptionKey::PublishedSecretKey => return Err(Refusal::DefaultSecretKey(exposed)),
        EncryptionKey::Missing => return Err(Refusal::MissingEncryptionKey),
        EncryptionKey::GeneratedFile | EncryptionKey::SecretKey | EncryptionKey::Explicit => {}
    }
    let safe = auth.admin == AdminAccount::Safe || auth.token || auth.password || auth.trusted_proxy;
    if safe {
        Ok(())
    } else {
        Err(Refusal::WithoutAuth(exposed))
    }
}

/// Why the gateway does not start. The text is for standard error and names the way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Others could reach it and nothing keeps them out.
    #[error(
        "refusing to bind gateway to {0} without auth\n\
         Do one of these first:\n\
         \x20 * set OPENACE_ADMIN_PASSWORD for the first start\n\
         \x20 * start on loopback (--bind loopback), log in as admin and change the generated password\n\
         Or stay on loopback and reach it through an SSH tunnel."
    )]
    WithoutAuth(SocketAddr),
    /// An admin has the published password.
    #[error(
        "refusing to bind gateway to {0}: an admin still has the published password admin123\n\
         Start on loopback (--bind loopback), log in and change it."
    )]
    DefaultAdminPassword(SocketAddr),
    /// `SECRET_KEY` has the published value.
    #[error(
        "refusing to bind gateway to {0}: SECRET_KEY is the published dev-secret-key\n\
         Set OPENACE_ENCRYPTION_KEY instead (`openssl rand -hex 32`)."
    )]
    DefaultSecretKey(SocketAddr),
    /// There is no key, or one that the other nodes do not have.
    #[error(
        "refusing to start without an explicit encryption key\n\
         Set OPENACE_ENCRYPTION_KEY (`openssl rand -hex 32`) to the same value on every node: \
         a key that one node made for itself opens nothing elsewhere."
    )]
    MissingEncryptionKey,
    /// A demo was asked to listen beyond loopback.
    #[error(
        "refusing to bind a demo to {0}: its passwords are printed\nRun the demo on loopback, or start without `demo`."
    )]
    DemoIsLocal(SocketAddr),
}

impl Refusal {
    /// The exit code of the program.
    pub const EXIT_CODE: u8 = EXIT_CONFIG;

    /// The stable code for machines.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WithoutAuth(_) => "bind_without_auth",
            Self::DefaultAdminPassword(_) => "default_admin_password",
            Self::DefaultSecretKey(_) => "default_secret_key",
            Self::MissingEncryptionKey => "missing_encryption_key",
            Self::DemoIsLocal(_) => "demo_loopback_only",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{super::BindMode, *};

    const SAFE: AuthState = AuthState {
        admin: AdminAccount::Safe,
        token: false,
        password: false,
        trusted_proxy: false,
        encryption_key: EncryptionKey::GeneratedFile,
        several_nodes: false,
        demo: false,
    };
    const UNSAFE: AuthState = AuthState {
        admin: AdminAccount::NotSafe,
        ..SAFE
    };

    #[track_caller]
    fn check(addresses: &[&str], auth: AuthState, expected: Result<(), &str>) {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(
            check_exposure(&addresses, &auth).map_err(|refusal| refusal.code()),
            expected,
            "{addresses:?} {auth:?}"
        );
    }

    /// Five modes over a host with and without loopback, times five states of auth.
    #[test]
    fn only_loopback_goes_without_auth_in_every_mode() {
        let states = [
            (UNSAFE, false),
            (SAFE, true),
            (AuthState { token: true, ..UNSAFE }, true),
            (
                AuthState {
                    password: true,
                    ..UNSAFE
                },
                true,
            ),
            (
                AuthState {
                    trusted_proxy: true,
                    ..UNSAFE
                },
                true,
            ),
        ];
        let host: [IpAddr; 2] = [[127, 0, 0, 1].into(), [100, 64, 0, 1].into()];
        for mode in BindMode::ALL {
            for interfaces in [&host[..], &host[1..]] {
                for (auth, safe) in states {
                    let addresses = mode.resolve("192.168.1.7", 5000, interfaces).unwrap();
                    let local = mode == BindMode::Loopback || (mode == BindMode::Auto && interfaces.len() == 2);
                    let found = check_exposure(&addresses, &auth).map_err(|refusal| refusal.code());
                    let expected = if local || safe {
                        Ok(())
                    } else {
                        Err("bind_without_auth")
                    };
                    assert_eq!(found, expected, "{mode} over {interfaces:?} with {auth:?}");
                }
            }
        }
    }

    #[test]
    fn trap_33_published_passwords_and_keys_never_leave_loopback() {
        let published = AuthState {
            admin: AdminAccount::PublishedPassword,
            token: true,
            ..SAFE
        };
        let dev_key = AuthState {
            encryption_key: EncryptionKey::PublishedSecretKey,
            ..SAFE
        };
        let no_key = AuthState {
            encryption_key: EncryptionKey::Missing,
            ..SAFE
        };
        check(&["0.0.0.0:5000"], published, Err("default_admin_password"));
        check(&["0.0.0.0:5000"], dev_key, Err("default_secret_key"));
        check(&["0.0.0.0:5000"], no_key, Err("missing_encryption_key"));
        check(
            &["[::]:5000"],
            AuthState { demo: true, ..SAFE },
            Err("demo_loopback_only"),
        );
        for auth in [published, dev_key, no_key, AuthState { demo: true, ..UNSAFE }] {
            check(
                &["127.0.0.1:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000"],
                auth,
                Ok(()),
            );
        }
    }

    #[test]
    fn several_nodes_need_one_explicit_key_even_on_loopback() {
        for encryption_key in [
            EncryptionKey::Missing,
            EncryptionKey::GeneratedFile,
            EncryptionKey::SecretKey,
        ] {
            let auth = AuthState {
                encryption_key,
                several_nodes: true,
                ..SAFE
            };
            check(&["127.0.0.1:5000"], auth, Err("missing_encryption_key"));
        }
        let auth = AuthState {
            encryption_key: EncryptionKey::Explicit,
            several_nodes: true,
            ..SAFE
        };
        check(&["10.0.0.1:5000"], auth, Ok(()));
    }

    #[test]
    fn the_refusal_names_the_address_and_the_way_out() {
        let text = check_exposure(&["0.0.0.0:5000".parse().unwrap()], &UNSAFE)
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("refusing to bind gateway to 0.0.0.0:5000 without auth\n"),
            "{text}"
        );
        assert!(text.contains("OPENACE_ADMIN_PASSWORD"), "{text}");
    }
}
