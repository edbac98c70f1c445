//! Closed sets of names, as tables, JSON and messages have them.

/// Declares a closed set of names with the conversions that tables, JSON and messages need.
macro_rules! names {
    (
        $(#[$doc:meta])*
        $type:ident { $($(#[$value_doc:meta])* $value:ident = $name:literal,)+ }
        $error:ident $what:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $type {
            $($(#[$value_doc])* #[serde(rename = $name)] $value,)+
        }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The name in tables and the HTTP API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $error;

            fn from_str(name: &str) -> Result<Self, $error> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name).ok_or_else(|| $error(name.to_owned()))
            }
        }

        #[doc = concat!("The name is not a ", $what, ".")]
        #[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
        #[error("unknown {what} '{0}'", what = $what)]
        pub struct $error(pub String);
    };
}

pub(crate) use names;
