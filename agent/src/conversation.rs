//! A CLI and its driver at work: lines are read, translated and printed, inputs are written, and its end is told.
//!
//! What it prints goes straight to the spool, and nothing more is read from it before there is room for that.

use std::{collections::VecDeque, fs, io, path::PathBuf, sync::Arc, time::SystemTime};

use ace_policies::{
    SessionId,
    wire::{Failure, FailureCode, Stream},
};
use tokio::sync::mpsc;
use uuid::Uuid;

mod running;
use running::{News, Running};

use crate::{
    adapter::{Adapter, Feature, Given, is_plain_name},
    driver::{Act, Acts, Driver, Exit, Input, Refused, Setting, Told},
    millis,
    process::{Order, Process, Sign, environment::CliEnvironment},
    supervisor::{End, Event, ProcessNumber},
    uplink::{Room, Taken, Up},
};

/// What a conversation is with, and where its words go.
pub struct Conversation {
    /// Whose.
    pub session_id: SessionId,
    /// Which process of the session.
    pub number: ProcessNumber,
    /// The CLI.
    pub adapter: Adapter,
    /// What it is started with.
    pub given: Given,
    /// What all CLIs begin with.
    pub environment: Arc<CliEnvironment>,
    /// The agent's own executable.
    pub executable: PathBuf,
    /// The clock, UTC milliseconds.
    pub clock: fn() -> SystemTime,
    /// To the spool.
    pub out: mpsc::Sender<Up>,
    /// To the supervisor.
    pub news: mpsc::UnboundedSender<Event>,
}

/// Something for a conversation.
#[derive(Debug)]
pub enum Ask {
    /// The CLI gets something.
    Give {
        /// Comes back with [`Event::Taken`].
        tag: Option<Uuid>,
        /// What.
        input: Input,
    },
    /// Its processes are held, or go on.
    Hold(bool),
    /// It ends, within so many milliseconds or by force.
    End(u64),
}

impl Conversation {
    /// Runs until nothing of the CLI is left; says so, or why it was never there.
    pub async fn run(self, asks: mpsc::UnboundedReceiver<Ask>) {
        let (session_id, process, news) = (self.session_id, self.number, self.news.clone());
        let end = match self.open() {
            Ok(talk) => talk.run(asks).await,
            Err(failure) => End::NotStarted(failure),
        };
        news.send(Event::Exited {
            session_id,
            process,
            end,
        })
        .ok();
    }

    fn open(self) -> Result<Talk, Failure> {
        let setting = Setting {
            cwd: self.given.project.to_string_lossy().into_owned(),
            resume_id: self.given.resume_id.clone(),
            model: self.given.model.clone(),
            permission_mode: self
                .adapter
                .permission_mode(self.given.permission_mode.as_deref())
                .map(str::to_owned),
        };
        let driver = Driver::new(&self.adapter, setting);
        let mut talk = Talk {
            running: None,
            driver,
            prints: VecDeque::new(),
            left_out: 0,
            held: false,
            ending: None,
            conversation: self,
        };
        if talk.driver.is_one_shot() {
            // That it is there, and takes what it would be given, is worth knowing before the first message.
            talk.conversation.launch(None)?;
        } else {
            talk.start(None)?;
        }
        let acts = talk.driver.begin();
        talk.follow(acts);
        Ok(talk)
    }

    fn launch(&self, prompt: Option<&str>) -> Result<crate::process::Launch, Failure> {
        let launch = self.adapter.launch(&self.given, &self.environment, prompt)?;
        let written = self.write_files();
        written
            .map(|()| launch)
            .map_err(|error| failed(format!("the session's files cannot be written: {error}")))
    }

    fn write_files(&self) -> io::Result<()> {
        for (path, content) in self.adapter.files(&self.given, &self.environment) {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, content)?;
        }
        Ok(())
    }
}

fn failed(message: String) -> Failure {
    Failure {
        code: FailureCode::Failed,
        message,
    }
}

struct Printed {
    stream: Stream,
    data: Vec<u8>,
    left_out: u64,
}

struct Talk {
    conversation: Conversation,
    driver: Driver,
    running: Option<Running>,
    /// Printed and not yet with the spool.
    prints: VecDeque<Printed>,
    /// So much of the line that is being read was not kept.
    left_out: u64,
    held: bool,
    ending: Option<u64>,
}

impl Talk {
    async fn run(mut self, mut asks: mpsc::UnboundedReceiver<Ask>) -> End {
        let (out, room) = (self.conversation.out.clone(), Room::default());
        loop {
            let may_read = self.prints.is_empty();
            let bytes = self.prints.front().map_or(0, |print| print.data.len());
            if may_read && self.running.is_none() && (self.ending.is_some() || !self.driver.is_one_shot()) {
                return End::Exit(Exit::default());
            }
            tokio::select! {
                place = place(&out, &room, bytes), if !may_read => {
                    let (Some((permit, taken)), Some(print)) = (place, self.prints.pop_front()) else {
                        return End::Exit(Exit::default());
                    };
                    permit.send(self.up(print, taken));
                }
                ask = asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return End::Exit(Exit::default()),
                },
                news = running::next(&mut self.running, may_read) => {
                    if let Some(end) = self.news(news) {
                        self.drain(&out, &room).await;
                        return End::Exit(end);
                    }
                }
            }
        }
    }

    async fn drain(&mut self, out: &mpsc::Sender<Up>, room: &Room) {
        while let Some(print) = self.prints.pop_front() {
            let Some((permit, taken)) = place(out, room, print.data.len()).await else {
                return;
            };
            permit.send(self.up(print, taken));
        }
    }

    fn up(&self, print: Printed, taken: Taken) -> Up {
        let (session_id, at) = (self.conversation.session_id, millis((self.conversation.clock)()));
        Up::Print {
            session_id,
            stream: print.stream,
            data: print.data,
            left_out: print.left_out,
            at,
            room: Some(taken),
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Give { tag, input } => {
                let refused = self.give(input).err();
                let (session_id, process) = (self.conversation.session_id, self.conversation.number);
                self.conversation
                    .news
                    .send(Event::Taken {
                        session_id,
                        process,
                        tag,
                        refused,
                    })
                    .ok();
            }
            Ask::Hold(held) => {
                self.held = held;
                self.order(Order::Sign(if held { Sign::Pause } else { Sign::Continue }));
            }
            Ask::End(grace_ms) => {
                self.ending = Some(grace_ms);
                self.order(Order::End(grace_ms));
            }
        }
    }

    fn give(&mut self, input: Input) -> Result<(), Refused> {
        self.look_at(&input)?;
        match &input {
            Input::Message(message) if self.driver.is_one_shot() => {
                let prompt = message.content.clone();
                let acts = self.driver.input(input)?;
                self.start(Some(&prompt))
                    .map_err(|failure| Refused::Never(failure.message))?;
                self.follow(acts);
                return Ok(());
            }
            Input::Interrupt if self.driver.is_one_shot() => self.order(Order::Sign(Sign::Interrupt)),
            Input::Model(model) => self.conversation.given.model = Some(model.clone()),
            Input::PermissionMode(mode) => self.conversation.given.permission_mode = Some(mode.clone()),
            _ => {}
        }
        let acts = self.driver.input(input)?;
        self.follow(acts);
        Ok(())
    }

    fn look_at(&self, input: &Input) -> Result<(), Refused> {
        let adapter = &self.conversation.adapter;
        let (feature, what) = match input {
            Input::Model(_) => (Feature::Model, "change its model"),
            Input::PermissionMode(_) => (Feature::PermissionMode, "change its permission mode"),
            Input::Message(message) if !message.attachments.is_empty() => (Feature::Attachments, "take files"),
            _ => return Ok(()),
        };
        if adapter.can(feature) {
            return Ok(());
        }
        Err(Refused::Never(format!("{} cannot {what}", adapter.name)))
    }

    fn start(&mut self, prompt: Option<&str>) -> Result<(), Failure> {
        let launch = self.conversation.launch(prompt)?;
        let process = Process::spawn(&self.conversation.executable, &launch)
            .map_err(|error| failed(format!("{} cannot be started: {error}", self.conversation.adapter.name)))?;
        self.running = Some(Running::new(process));
        if self.held {
            self.order(Order::Sign(Sign::Pause));
        }
        Ok(())
    }

    fn order(&self, order: Order) {
        if let Some(running) = &self.running {
            running.order(order);
        }
    }

    /// What the process has to say; its end where that is the end of all.
    fn news(&mut self, news: News) -> Option<Exit> {
        match news {
            News::Stdout(line) => {
                self.left_out = line.left_out;
                let acts = self.driver.line(line.data);
                self.follow(acts);
                self.tell_of_left_out();
            }
            News::Stderr(line) => {
                self.left_out = line.left_out;
                self.print(Stream::Stderr, line.data);
            }
            News::Ended(exit) => {
                self.running = None;
                let acts = self.driver.ended(&exit);
                self.follow(acts);
                let over = self.ending.is_some() || !self.driver.is_one_shot();
                return over.then_some(exit);
            }
        }
        None
    }

    fn follow(&mut self, acts: Acts) {
        for act in acts.0 {
            match act {
                Act::Write(_) if self.driver.is_one_shot() && !self.conversation.adapter.reads_the_message() => {}
                Act::Write(bytes) => self.order(Order::Write(bytes)),
                Act::Close => self.order(Order::Close),
                Act::Print(stream, data) => self.print(stream, data),
                // A name that is of no use later would only be tried in vain.
                Act::Tell(Told::Conversation(name)) if !self.can_resume(&name) => {}
                Act::Tell(told) => {
                    if let Told::Conversation(name) = &told {
                        // For the next turn, where that has a process of its own.
                        self.conversation.given.resume_id = Some(name.clone());
                    }
                    let (session_id, process) = (self.conversation.session_id, self.conversation.number);
                    self.conversation
                        .news
                        .send(Event::Told {
                            session_id,
                            process,
                            told,
                        })
                        .ok();
                }
            }
        }
    }

    fn can_resume(&self, conversation: &str) -> bool {
        self.conversation.adapter.can(Feature::Resume) && is_plain_name(conversation)
    }

    /// Where nothing was printed of a line that was too long, its end is not told there.
    fn tell_of_left_out(&mut self) {
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            let text = format!("a line was too long: its last {left_out} bytes are left out\n");
            self.print(Stream::System, text.into_bytes());
        }
    }

    fn print(&mut self, stream: Stream, data: Vec<u8>) {
        self.prints.push_back(Printed {
            stream,
            data,
            left_out: std::mem::take(&mut self.left_out),
        });
    }
}

/// A place on the way to the spool, as soon as there is one and room for so many bytes.
async fn place<'a>(out: &'a mpsc::Sender<Up>, room: &Room, bytes: usize) -> Option<(mpsc::Permit<'a, Up>, Taken)> {
    let taken = room.take(bytes).await;
    Some((out.reserve().await.ok()?, taken))
}
