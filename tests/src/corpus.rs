//! Exchanges to compare bytes with: requests as strange as JSON and HTTP allow, and answers of the same kind.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::{Ask, Dialect, Script};

/// One request and what the provider answers to it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub name: String,
    pub dialect: Dialect,
    pub ask: Ask,
    pub script: Script,
    /// Whether the gateway has to ask for usage in this request, and may change these bytes only.
    pub asks_for_usage: bool,
}

/// Makes exchanges; the same seed makes the same ones.
pub struct Corpus {
    state: u64,
}

impl Corpus {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// `count` exchanges of each dialect, with generated requests and answers.
    pub fn generated(&mut self, count: usize) -> Vec<Exchange> {
        let mut all = Vec::new();
        for n in 0..count {
            for dialect in Dialect::ALL {
                let streams = n % 2 == 0;
                let ask = self.ask(dialect, streams);
                let script = if streams {
                    self.stream(dialect)
                } else {
                    self.whole(dialect)
                };
                let name = format!("generated {n} {dialect:?}");
                all.push(Exchange {
                    name,
                    dialect,
                    ask,
                    script,
                    asks_for_usage: false,
                });
            }
        }
        all
    }

    /// The recorded streams of a folder of fixtures, each cut into chunks somewhere.
    ///
    /// # Panics
    /// When the folder cannot be read.
    pub fn recorded(&mut self, folder: &Path) -> Vec<Exchange> {
        let files = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.expect("a readable folder").path()).collect();
        paths.sort();
        let mut all = Vec::new();
        for path in paths.iter().filter(|path| path.is_file()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let dialect = match name.as_str() {
                name if name.contains("anthropic") => Dialect::Anthropic,
                name if name.contains("google") || name.contains("gemini") => Dialect::Google,
                _ => Dialect::OpenAi,
            };
            let bytes = std::fs::read(path).expect("a readable file");
            let script = self.cut(&bytes);
            all.push(Exchange {
                name,
                dialect,
                ask: dialect.streaming_ask(),
                script,
                asks_for_usage: false,
            });
        }
        all
    }

    fn ask(&mut self, dialect: Dialect, streams: bool) -> Ask {
        let path = if streams {
            dialect.streaming_path()
        } else {
            dialect.path()
        };
        let body = self.body(dialect, streams);
        let mut ask = Ask::post(path).header("content-type", "application/json");
        for n in 0..self.below(4) {
            ask = ask.header(&format!("X-Odd-{n}"), self.header_value());
        }
        match self.below(3) {
            0 => ask.chunks(
                body.chunks(1 + self.below(700))
                    .map(Bytes::copy_from_slice)
                    .collect::<Vec<_>>(),
            ),
            _ => ask.body(body),
        }
    }

    /// A body of the dialect with strange members between its own.
    fn body(&mut self, dialect: Dialect, streams: bool) -> Vec<u8> {
        let mut members: Vec<String> = match dialect {
            Dialect::OpenAi => vec![
                r#""model": "gpt-5.5""#.into(),
                r#""messages":[{"role":"user","content":"hi"}]"#.into(),
            ],
            Dialect::Anthropic => vec![
                r#""model":"claude-opus-5-5""#.into(),
                r#""max_tokens" : 9"#.into(),
                r#""messages":[{"role":"user","content":"hi"}]"#.into(),
            ],
            Dialect::Google => vec![r#""contents":[{"role":"user","parts":[{"text":"hi"}]}]"#.into()],
        };
        if streams && dialect != Dialect::Google {
            members.push(r#""stream":true"#.into());
        }
        if streams && dialect == Dialect::OpenAi {
            members.push(r#""stream_options" : { "include_usage":true}"#.into());
        }
        for _ in 0..self.below(8) {
            let at = self.below(members.len() + 1);
            let odd = format!("\"{}\"{}:{}", self.text(6), self.space(), self.value(3));
            members.insert(at, odd);
        }
        let open = self.space();
        format!("{open}{{{}}}{open}", members.join(&format!("{open},"))).into_bytes()
    }

    /// Any JSON value, in the spellings that do not survive being parsed and written again.
    fn value(&mut self, depth: usize) -> String {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => self
                .pick(&[
                    "12345678901234567890123",
                    "1.0",
                    "-0",
                    "1E+400",
                    "0.10",
                    "1e-7",
                    "9007199254740993",
                ])
                .into(),
            1 => self.pick(&["true", "false", "null"]).into(),
            2 => format!("\"{}\"", self.text(40)),
            3 => format!(
                "\"{}\"",
                self.pick(&[
                    "\\u0041",
                    "\\/",
                    "\\ud83d\\ude00",
                    "\\u0000",
                    "\\ud800",
                    "é",
                    "日本",
                    "\u{2028}"
                ])
            ),
            4 => self.pick(&["{ }", "[ ]", "\"\""]).into(),
            5 => {
                let items: Vec<_> = (0..self.below(4)).map(|_| self.value(depth - 1)).collect();
                format!("[{}]", items.join(", "))
            }
            _ => {
                // Twice the same name, in an order that no map keeps.
                let (name, first, second) = (self.text(3), self.value(depth - 1), self.value(depth - 1));
                format!("{{\"z{name}\":{first} ,\"a\":1, \"z{name}\" : {second}}}")
            }
        }
    }

    fn whole(&mut self, dialect: Dialect) -> Script {
        let usage = match dialect {
            Dialect::OpenAi => r#""usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#,
            Dialect::Anthropic => r#""usage":{"input_tokens":1,"output_tokens":2}"#,
            Dialect::Google => r#""usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2,"totalTokenCount":3}"#,
        };
        let body = format!(
            "{}{{\"odd\":{},{usage},\"x\" : {}}}\n",
            self.space(),
            self.value(3),
            self.value(2)
        );
        let status = self.pick(&["200 OK", "201 Made", "400 Bad", "429 Slow Down", "529 Overloaded"]);
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Twice: a\r\nx-twice: b\r\n");
        let _ = write!(head, "request-id: r{}\r\nretry-after: 1\r\n", self.below(1000));
        match self.below(3) {
            0 => {
                let start = Script::raw(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                self.cut_into(start, body.as_bytes()).last_chunk()
            }
            1 => Script::raw(format!("{head}\r\n{body}")).close(),
            _ => Script::raw(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())),
        }
    }

    fn stream(&mut self, dialect: Dialect) -> Script {
        let mut text = String::from(self.pick(&["", "\u{feff}", ": hello\n\n", "\n\n", "retry: 10\r\n\r\n"]));
        for n in 0..self.below(12) {
            match (dialect, self.below(5)) {
                (_, 0) => text.push_str(self.pick(&[
                    ": ping\n\n",
                    "id: 7\n",
                    "data\n\n",
                    "data:\n\n",
                    "event: x\r\ndata: y\r\n\r\n",
                ])),
                (_, 1) => _ = write!(text, "data: {{\"odd\":\ndata:{}}}\n\n", self.value(2)),
                (Dialect::OpenAi, _) => {
                    let content = self.text(30);
                    _ = write!(
                        text,
                        "data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}],\"n\":{n}}}\n\n"
                    );
                }
                (Dialect::Anthropic, _) => {
                    let content = self.text(30);
                    _ = write!(
                        text,
                        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{content}\"}}}}\n\n"
                    );
                }
                (Dialect::Google, _) => {
                    let content = self.text(30);
                    _ = write!(
                        text,
                        "data: {{\"candidates\": [{{\"content\": {{\"parts\": [{{\"text\": \"{content}\"}}]}}}}]}}\r\n\r\n"
                    );
                }
            }
        }
        text.push_str(match dialect {
            Dialect::OpenAi => "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
            Dialect::Anthropic => "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":2}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            Dialect::Google => "data: {\"usageMetadata\": {\"promptTokenCount\": 1,\"candidatesTokenCount\": 2}}\r\n\r\n",
        });
        let mut bytes = text.into_bytes();
        if self.below(3) == 0 {
            bytes.extend_from_slice(b"data: \xff\xfe not text \x80\n\ndata: no end");
        }
        self.cut(&bytes)
    }

    /// A stream of these bytes, cut into chunks wherever it may be.
    fn cut(&mut self, bytes: &[u8]) -> Script {
        self.cut_into(Script::stream(), bytes).last_chunk()
    }

    fn cut_into(&mut self, mut script: Script, mut bytes: &[u8]) -> Script {
        let most = [3, 40, 400, 40_000][self.below(4)].max(bytes.len() / 50);
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at((1 + self.below(most)).min(bytes.len()));
            script = script.chunk(chunk);
            if self.below(8) == 0 {
                script = script.wait(Duration::from_millis(1));
            }
            bytes = rest;
        }
        script
    }

    fn header_value(&mut self) -> Vec<u8> {
        match self.below(3) {
            0 => b"caf\xe9 \xff".to_vec(),
            1 => self.text(30).into_bytes(),
            _ => b"\"a, b\";c=\td".to_vec(),
        }
    }

    fn text(&mut self, most: usize) -> String {
        (0..self.below(most))
            .map(|_| char::from(b"abcdefghij -_.:;{}[]"[self.below(20)]))
            .collect::<String>()
            .trim()
            .to_owned()
    }

    fn space(&mut self) -> &'static str {
        self.pick(&["", "", " ", "\n", "\r\n\t", "    "])
    }

    fn pick<'a>(&mut self, among: &[&'a str]) -> &'a str {
        among[self.below(among.len())]
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) as usize) % limit.max(1)
    }
}
