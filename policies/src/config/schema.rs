//! What a section is: a struct whose every key has a type, a default and a range, declared once.

use toml::de::DeValue;

/// A value as one of the sources gives it.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// Out of the file.
    Toml(&'a DeValue<'a>),
    /// Out of the environment or a flag.
    Text(&'a str),
}

/// A section, whatever its keys.
pub(super) trait Section {
    /// The names of its keys, in the order of the file.
    fn keys(&self) -> &'static [&'static str];
    /// Sets a key. Errors: what is wrong, and what to write instead.
    fn set(&mut self, key: &str, given: Given<'_>) -> Result<(), String>;
    /// The keys with their values as TOML, secrets masked.
    fn entries(&self) -> Vec<(&'static str, String)>;
}

/// Declares the sections: `key: type = default, range;`, the range only where there is one.
macro_rules! sections {
    ($(
        $(#[$section_doc:meta])*
        $section:ident: $struct:ident $(($derive:ident))* {
            $($(#[$key_doc:meta])* $key:ident: $type:ty = $default:expr $(, $range:expr)?;)+
        }
    )+) => {
        /// The configuration. It is not `Clone`, since it may hold secrets: share it behind an `Arc`.
        #[derive(Debug, Default, PartialEq)]
        pub struct Config {
            $($(#[$section_doc])* pub $section: $struct,)+
        }

        impl Config {
            /// Every section with its name, in the order of the file.
            pub(super) fn sections(&self) -> Vec<(&'static str, &dyn Section)> {
                vec![$((stringify!($section), &self.$section)),+]
            }

            /// The section of a name.
            pub(super) fn section_mut(&mut self, name: &str) -> Option<&mut dyn Section> {
                match name {
                    $(stringify!($section) => Some(&mut self.$section),)+
                    _ => None,
                }
            }
        }

        $(
            $(#[$section_doc])*
            #[derive(Debug, PartialEq $(, $derive)*)]
            pub struct $struct {
                $($(#[$key_doc])* pub $key: $type,)+
            }

            impl Default for $struct {
                fn default() -> Self {
                    Self { $($key: $default),+ }
                }
            }

            impl Section for $struct {
                fn keys(&self) -> &'static [&'static str] {
                    &[$(stringify!($key)),+]
                }

                fn set(&mut self, key: &str, given: Given<'_>) -> Result<(), String> {
                    match key {
                        $(stringify!($key) => {
                            let value = setting::read::<$type>(given)?;
                            $(setting::check_range(&value, $range)?;)?
                            self.$key = value;
                        })+
                        _ => return Err("unknown key".to_owned()),
                    }
                    Ok(())
                }

                fn entries(&self) -> Vec<(&'static str, String)> {
                    vec![$((stringify!($key), Setting::to_toml(&self.$key))),+]
                }
            }
        )+
    };
}

pub(super) use sections;
