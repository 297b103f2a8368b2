//! Ten thousand lines that tokenizers get wrong: prose in many scripts, code, emoji, controls, runs, and what
//! looks like something else.
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use ruvlab::text;

pub(crate) const COUNT: usize = 10_000;

const TEXTS: [&str; 6] = [
    "builtin:heldout",
    "builtin:french.test",
    "builtin:german.test",
    "builtin:python.test",
    "builtin:kjv.test",
    "builtin:jargon.test",
];

const SENTENCES: [&str; 26] = [
    "我昨天在图书馆借了三本书，明天要还。",
    "今日は天気がいいから、散歩しましょうか？カタカナもあるよ。",
    "오늘 저녁에 친구를 만나서 김치찌개를 먹었어요.",
    "الكتاب على الطاولة، والقلم بجانبه ٣٤٥.",
    "הספר נמצא על השולחן ליד החלון.",
    "मैं कल सुबह दिल्ली जा रहा हूँ, क्या आप आएँगे?",
    "ฉันชอบกินข้าวผัดกับน้ำปลาพริก",
    "Вчера мы гуляли по набережной до самой ночи.",
    "Το πρωί ήπια καφέ και διάβασα την εφημερίδα.",
    "Dün akşam İstanbul'da ılık bir rüzgâr vardı.",
    "Tiếng Việt có rất nhiều dấu thanh điệu.",
    "საქართველო მდებარეობს კავკასიაში.",
    "ኢትዮጵያ የብዙ ቋንቋዎች አገር ናት።",
    "நான் தமிழ் படிக்கிறேன், நீங்கள்?",
    "আমি বাংলায় গান গাই।",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Zażółć gęślą jaźń, 1 234,56 zł.",
    "Él preguntó: ¿cuándo vendrás? ¡Mañana!",
    "Þú ert íslenskur, er það ekki?",
    "Ես սովորում եմ հայերեն։",
    "ខ្ញុំរៀនភាសាខ្មែរ។",
    "မြန်မာစာကို လေ့လာနေတယ်။",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ꮳꮃꭹ",
    "ǅ ǈ ǋ ǲ ŉ ﬁ ﬀ ẞ ß ſ İ ı K Å Ω",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ⇒ ½ ² Ⅷ ⑦ ٣ ४ 五",
    "ｆｕｌｌｗｉｄｔｈ １２３ 　ｔｅｘｔ！",
];

const EMOJI: [&str; 16] =
    ["👨‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷🇩🇪🇯🇵", "👍🏽", "1️⃣", "❤️‍🔥", "🧑🏿‍🚀", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "😀😃😄", "🤷‍♀️", "👩🏻‍❤️‍👨🏿", "🇺", "🦀", "☠︎", "㊙️", "🫠🪿"];

const CODE: [&str; 14] = [
    "fn main() { println!(\"{:>8.3}\", x[0].iter().sum::<f64>()); }",
    "    if (a && !b || c ^ d) { return a->next[i++]; } // TODO",
    "SELECT * FROM users WHERE id = 42 AND name LIKE '%O''Brien%';",
    "\t\tfor i in range(10):\r\n\t\t\tprint(f\"{i=}\")\r\n",
    "https://example.org/path/to?q=a%20b&r=[1,2]#frag",
    "<div class=\"a b\" data-x='1'>&nbsp;&#39;</div>",
    "{\"key\": [1, 2.5e-10, null, true], \"ключ\": \"\\u00e9\\ud83d\"}",
    "user.name+tag@mail-server.example.co.uk, +49 (0)30 123456-78",
    "int *p = (int *)malloc(n * sizeof *p); /* ok */ #define X(a) a##_t",
    "snake_case camelCase PascalCase SCREAMING_SNAKE HTTPServer iPhone x86_64 v1.2.3-rc.1",
    "I'm you're he'S WE'LL they'D it’s 'tis rock'n'roll 'Ll 'ſ",
    "1234567890 3.14159 1,000,000 0xDEADBEEF 1e-9 12:34:56 2024-02-29",
    "$a = <<<'EOT'\nabc\nEOT;\n\n\n  ?>",
    "a\\b\\c C:\\Users\\x ../.. ~/.bashrc $HOME `ls -la` && echo \"$?\"",
];

const LOOKALIKES: [&str; 24] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<bos>",
    "<eos>",
    "</s>",
    "<s>",
    "<unk>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "<|eot_id|>",
    "<|fim_prefix|>",
    "<tool_call>",
    "<unused7>",
    "<0x41>",
    "\\ud800",
    "\u{2581}",
    "\u{2581}\u{2581}",
    "\u{120}",
    "<repo_name>",
    "<table>",
    "[multimodal]",
    "<pad>",
];

const CONTROLS: [&str; 18] = [
    "\u{0}",
    "\u{feff}",
    "\u{fffd}",
    "\r\n",
    "\r",
    "\u{b}",
    "\u{c}",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{200b}",
    "\u{202e}",
    "\u{fffe}",
    "\u{e000}",
    "\u{10ffff}",
    "\u{ad}",
];

const RUNS: [&str; 20] = [
    " ", "\n", "\t", "a", "A", "0", "!", "-", "=", "é", "e\u{301}", "日", "😀", "ab", " \n", "\r\n", "\u{0}", "_",
    "'s", "\u{300}",
];

fn random_char(random: &mut ChaCha8Rng) -> char {
    let top = [0x80, 0x800, 0x3000, 0x1_0000, 0x2_0000, 0x11_0000][random.random_range(0..6)];
    char::from_u32(random.random_range(0..top)).unwrap_or('\u{fffd}')
}

fn words(random: &mut ChaCha8Rng, count: usize) -> String {
    let mut line = String::new();
    for _ in 0..count {
        let sentence = SENTENCES.choose(random).unwrap();
        let all: Vec<char> = sentence.chars().collect();
        let start = random.random_range(0..all.len());
        let end = random.random_range(start..=all.len());
        line.extend(&all[start..end]);
        line.push_str(["", " ", "  ", ", ", "\n", "-"].choose(random).unwrap());
    }
    line
}

fn line(random: &mut ChaCha8Rng, texts: &[Vec<String>]) -> String {
    let several = |list: &[&str], most: usize, random: &mut ChaCha8Rng| -> String {
        (0..random.random_range(1..=most)).map(|_| *list.choose(random).unwrap()).collect()
    };
    match random.random_range(0..20) {
        0..=4 => texts.choose(random).unwrap().choose(random).unwrap().clone(),
        5 => {
            let ends = ["\n", "\r\n", "\n\n", "\r", " \n ", "\t"];
            let mut line = String::new();
            for _ in 0..3 {
                line.push_str(texts.choose(random).unwrap().choose(random).unwrap());
                line.push_str(ends.choose(random).unwrap());
            }
            line
        }
        6 => (*SENTENCES.choose(random).unwrap()).to_owned(),
        7 | 8 => {
            let count = random.random_range(1..5);
            words(random, count)
        }
        9 => format!("{} {}", several(&EMOJI, 4, random), several(&EMOJI, 2, random)),
        10 => format!("{}{}", words(random, 1), several(&EMOJI, 2, random)),
        11 | 12 => several(&CODE, 2, random),
        13 => {
            let all: Vec<char> = several(&CODE, 3, random).chars().collect();
            let start = random.random_range(0..all.len());
            all[start..random.random_range(start..=all.len())].iter().collect()
        }
        14 => format!("{}{}{}", words(random, 1), several(&CONTROLS, 3, random), words(random, 1)),
        15 => (0..random.random_range(1..40)).map(|_| random_char(random)).collect(),
        16 => {
            let count = [1, 2, 3, 4, 7, 16, 33, 100, 400][random.random_range(0..9)];
            format!("{}{}{}", words(random, 1), RUNS.choose(random).unwrap().repeat(count), words(random, 1))
        }
        17 => format!("{}{}{}", words(random, 1), several(&LOOKALIKES, 2, random), words(random, 1)),
        18 => {
            let pieces = [" ", "  ", "\n", "\t", "x", "1", ".", "é", "'", "\u{301}", "\u{a0}", "A", "日", "\r\n"];
            several(&pieces, 24, random)
        }
        _ => (0..random.random_range(1..12)).map(|_| random.random_range(' '..='~')).collect(),
    }
}

/// Returns the lines, the same ones every time.
pub(crate) fn lines() -> Vec<String> {
    let texts: Vec<Vec<String>> = TEXTS
        .iter()
        .map(|name| {
            text::load(name).unwrap().content.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
        })
        .collect();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    (0..COUNT).map(|_| line(&mut random, &texts)).collect()
}
