//! How wide text is. plotters guesses 0.7 em a byte; labels need better than that.

/// The family drawings ask for. Liberation Sans is bundled for PNG; the others have its widths.
pub(super) const FAMILY: &str = "Liberation Sans, Arial, Helvetica, sans-serif";

/// Advance widths of U+0020 to U+007E in thousandths of an em, as in Helvetica's font metrics, which
/// Arial and Liberation Sans share.
const WIDTHS: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
    556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
    260, 334, 584,
];

fn char_width(c: char) -> f64 {
    let thousandths = match c {
        ' '..='~' => WIDTHS[c as usize - 32],
        '·' => 333,
        '±' | '×' => 584,
        '…' => 1000,
        // Wider than most, so that labels in other scripts get room.
        _ => 1000,
    };
    f64::from(thousandths) / 1000.0
}

/// Returns the width of a line of text, in the unit of `size`.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(char_width).sum::<f64>() * size
}

/// Returns the text, with an ellipsis for its middle where it is wider than `limit`: what tells two
/// names apart is mostly at an end.
pub(super) fn fit(text: &str, size: f64, limit: f64) -> String {
    if width(text, size) <= limit {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    for kept in (0..chars.len()).rev() {
        // Three fifths from the beginning.
        let head: String = chars[..kept - kept * 2 / 5].iter().collect();
        let tail: String = chars[chars.len() - kept * 2 / 5..].iter().collect();
        let cut = format!("{}…{}", head.trim_end(), tail.trim_start());
        if width(&cut, size) <= limit {
            return cut;
        }
    }
    String::new()
}

/// Returns the text in lines no wider than `limit`, broken at blanks.
pub(super) fn wrap(text: &str, size: f64, limit: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line, size) + width(" ", size) + width(word, size) <= limit => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_text_fits() {
        let long = "kernels.set=reference quantization.format=q4_k_m";
        let cut = fit(long, 12.0, 120.0);
        assert!(width(&cut, 12.0) <= 120.0 && cut.contains('…') && cut.ends_with("k_m"), "{cut}");
        assert_eq!(fit("short", 12.0, 120.0), "short");
        assert_eq!(fit("no room", 12.0, 2.0), "");
    }

    #[test]
    fn wrapped_text_keeps_every_word() {
        let text = "error bars are 95 % intervals of the mean over n = 5 launches";
        let lines = wrap(text, 12.0, 150.0);
        assert!(lines.len() > 1 && lines.iter().all(|line| width(line, 12.0) <= 150.0));
        assert_eq!(lines.join(" "), text);
    }
}
