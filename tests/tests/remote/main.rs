//! Sessions on remote machines: people, the control API, and agents that the stories play.

mod agent;
mod by_hand;
mod clis;
mod dialect;
mod installed;
mod nodes;
mod quick_start;
