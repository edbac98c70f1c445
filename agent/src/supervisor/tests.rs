//! The supervisor told as short stories: what goes in, and what comes out in few words.

mod after;
mod command;
mod ending;
mod process;
mod question;
mod queue;
mod setting;
mod world;
