//! The life of a session: its states, what may happen in each, and what the agent is told then.

use crate::names::names;

names! {
    /// Where a session stands.
    State {
        /// Its CLI is being started.
        Starting = "starting",
        /// Its CLI takes messages. That the CLI's process has died meanwhile does not matter: the next message starts it again.
        Active = "active",
        /// Its CLI's processes are stopped where they are.
        Paused = "paused",
        /// Somebody ended it.
        Stopped = "stopped",
        /// Its CLI was done.
        Completed = "completed",
        /// It could not go on.
        Error = "error",
    }
    UnknownState "session state"
}

impl State {
    /// Whether it runs, or could at once: its proxy tokens are good, and it counts against the machine's `max_sessions`.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Active | Self::Paused)
    }
}

/// What people want of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// To say something to the CLI.
    Chat,
    /// To end it.
    Stop,
    /// To hold its processes where they are.
    Pause,
    /// To go on: after a pause, or anew with the same conversation after an end.
    Resume,
    /// To end the turn, not the session.
    Abort,
    /// To change its model or permission mode.
    Configure,
}

/// What follows from a wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The state from now on.
    pub to: State,
    /// What the agent is told.
    pub tell: Tell,
}

/// What the agent is told after a wish. The caller writes the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    /// Nothing: it is so already.
    Nothing,
    /// What was wished for.
    Wish,
    /// To start the CLI, in a new run, with the conversation it had; for a chat the message after it.
    Start,
}

/// Decides what becomes of a wish. All but a chat may be repeated: what is so already is no error.
pub const fn next(state: State, wish: Wish) -> Result<Step, NotNow> {
    use State::{Active, Completed, Error, Paused, Starting, Stopped};
    let (to, tell) = match (wish, state) {
        (Wish::Chat | Wish::Configure, Starting | Active) | (Wish::Configure, Paused) => (state, Tell::Wish),
        // A session that broke, or whose CLI was done, is started again: nothing that was said is lost.
        (Wish::Chat, Completed | Error) | (Wish::Resume, Stopped | Completed | Error) => (Starting, Tell::Start),
        (Wish::Chat, Paused | Stopped) | (Wish::Configure, Stopped | Completed | Error) => {
            return Err(NotNow { state, wish });
        }
        (Wish::Stop, Starting | Active | Paused) => (Stopped, Tell::Wish),
        (Wish::Pause, Starting | Active) => (Paused, Tell::Wish),
        (Wish::Pause, Stopped | Completed | Error) => return Err(NotNow { state, wish }),
        (Wish::Resume, Paused) => (Active, Tell::Wish),
        (Wish::Abort, Starting | Active | Paused) => (state, Tell::Wish),
        (Wish::Stop | Wish::Abort, Stopped | Completed | Error)
        | (Wish::Pause, Paused)
        | (Wish::Resume, Starting | Active) => (state, Tell::Nothing),
    };
    Ok(Step { to, tell })
}

/// The session is not in a state for what was wished for. 409.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the session is {state}; {}", self.way_out())]
pub struct NotNow {
    /// The state it is in.
    pub state: State,
    /// What was wished for.
    pub wish: Wish,
}

impl NotNow {
    /// The code by which programs tell the reasons apart.
    pub const fn code(self) -> &'static str {
        match self.state {
            State::Paused => "session_paused",
            _ => "session_ended",
        }
    }

    const fn way_out(&self) -> &'static str {
        match self.wish {
            Wish::Pause => "there is nothing to pause",
            _ => "resume it first",
        }
    }
}

names! {
    /// What an agent says of a session's CLI.
    Report {
        /// The CLI takes messages, or works on one.
        Running = "running",
        /// Its processes are held.
        Paused = "paused",
        /// It was ended because somebody asked for it.
        Stopped = "stopped",
        /// It was done by itself.
        Completed = "completed",
        /// It cannot go on.
        Error = "error",
    }
    UnknownReport "session report"
}

/// The state after an agent's report on the session's current run; reports on earlier runs are to be left out by the caller.
///
/// People's word counts more: what they have paused or stopped does not become active because an agent was slow to hear of it. And
/// only people pause: an agent that holds a session which is to run has not heard of their resume yet, and will.
pub const fn after_report(state: State, report: Report) -> State {
    match (state, report) {
        (State::Starting, Report::Running) => State::Active,
        (State::Starting | State::Active | State::Paused, Report::Stopped) => State::Stopped,
        (State::Starting | State::Active | State::Paused, Report::Completed) => State::Completed,
        (State::Starting | State::Active | State::Paused, Report::Error) => State::Error,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wish: Wish, expected: [Option<(State, Tell)>; 6]) {
        for (state, expected) in State::ALL.iter().zip(expected) {
            let step = next(*state, wish).ok().map(|step| (step.to, step.tell));
            assert_eq!(step, expected, "{wish:?} while {state}");
        }
    }

    #[test]
    fn every_wish_in_every_state() {
        use State::{Active, Completed, Error, Paused, Starting, Stopped};
        let wish = |state| Some((state, Tell::Wish));
        let start = Some((Starting, Tell::Start));
        let as_is = |state| Some((state, Tell::Nothing));
        // starting, active, paused, stopped, completed, error
        check(Wish::Chat, [wish(Starting), wish(Active), None, None, start, start]);
        check(
            Wish::Configure,
            [wish(Starting), wish(Active), wish(Paused), None, None, None],
        );
        check(
            Wish::Stop,
            [
                wish(Stopped),
                wish(Stopped),
                wish(Stopped),
                as_is(Stopped),
                as_is(Completed),
                as_is(Error),
            ],
        );
        check(
            Wish::Pause,
            [wish(Paused), wish(Paused), as_is(Paused), None, None, None],
        );
        check(
            Wish::Resume,
            [as_is(Starting), as_is(Active), wish(Active), start, start, start],
        );
        check(
            Wish::Abort,
            [
                wish(Starting),
                wish(Active),
                wish(Paused),
                as_is(Stopped),
                as_is(Completed),
                as_is(Error),
            ],
        );
    }

    #[test]
    fn an_end_is_final_for_agents() {
        for state in [State::Stopped, State::Completed, State::Error] {
            for report in Report::ALL {
                assert_eq!(after_report(state, *report), state);
            }
        }
        assert_eq!(after_report(State::Starting, Report::Running), State::Active);
        assert_eq!(after_report(State::Paused, Report::Running), State::Paused);
        assert_eq!(after_report(State::Paused, Report::Error), State::Error);
    }

    #[test]
    fn only_people_pause() {
        for state in State::ALL {
            assert_eq!(after_report(*state, Report::Paused), *state);
        }
    }

    #[test]
    fn a_refusal_names_the_state_and_the_way_out() {
        let refusal = next(State::Paused, Wish::Chat).unwrap_err();
        assert_eq!(refusal.to_string(), "the session is paused; resume it first");
        assert_eq!(refusal.code(), "session_paused");
    }
}
