//! Finds where the running kernel keeps the fields of its structs, in its BTF.
//!
//! aya reads BTF for its own use and keeps what it found to itself, so this is a reader of the one thing we ask: the offset of
//! a member. Format: Documentation/bpf/btf.rst of the kernel.

use std::collections::HashMap;
use std::path::Path;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const TYPE_LEN: usize = 12;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why the kernel's BTF could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// File.
        path: String,
        /// What the read said.
        source: std::io::Error,
    },
    /// The data is not BTF of a version that is known.
    #[error("the kernel's BTF is malformed: {0}")]
    Malformed(&'static str),
}

/// A member of a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset from the start of the struct, in bits.
    pub bit_offset: u32,
    /// Width in bits of a bitfield, 0 for any other member.
    pub bitfield_bits: u32,
}

struct Field {
    name: u32,
    type_id: u32,
    member: Member,
}

/// The structs of a kernel.
pub struct Btf {
    strings: Vec<u8>,
    /// Member lists by type id, for structs and unions.
    members: HashMap<u32, Vec<Field>>,
    /// The type a modifier or typedef stands for.
    aliases: HashMap<u32, u32>,
    structs: HashMap<Vec<u8>, u32>,
}

impl Btf {
    /// Reads the BTF of the running kernel (`/sys/kernel/btf/vmlinux`, Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`).
    ///
    /// # Errors
    /// The kernel has no BTF, or it is malformed.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new("/sys/kernel/btf/vmlinux"))
    }

    /// Reads BTF from a file.
    ///
    /// # Errors
    /// The file cannot be read, or is malformed.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let data = std::fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&data)
    }

    /// Parses BTF in this machine's byte order.
    ///
    /// # Errors
    /// The data is malformed.
    pub fn parse(data: &[u8]) -> Result<Self, BtfError> {
        let truncated = BtfError::Malformed("truncated");
        if data.len() < HEADER_LEN {
            return Err(truncated);
        }
        if u16::from_ne_bytes([data[0], data[1]]) != MAGIC {
            return Err(BtfError::Malformed("wrong magic"));
        }
        let field = |at: usize| word(data, at).map(|value| value as usize);
        let start = field(4)?;
        let section = |offset: usize, len: usize| {
            let from = start.checked_add(offset)?;
            data.get(from..from.checked_add(len)?)
        };
        let types = section(field(8)?, field(12)?).ok_or(BtfError::Malformed("truncated types"))?;
        let strings = section(field(16)?, field(20)?).ok_or(BtfError::Malformed("truncated strings"))?;
        let mut btf = Self {
            strings: strings.to_vec(),
            members: HashMap::new(),
            aliases: HashMap::new(),
            structs: HashMap::new(),
        };
        btf.index(types)?;
        Ok(btf)
    }

    fn index(&mut self, types: &[u8]) -> Result<(), BtfError> {
        let mut at = 0;
        let mut id = 1;
        while at < types.len() {
            let (name, info, size_or_type) = (word(types, at)?, word(types, at + 4)?, word(types, at + 8)?);
            let (kind, count, kind_flag) = (info >> 24 & 0x1f, (info & 0xffff) as usize, info >> 31 == 1);
            at += TYPE_LEN;
            match kind {
                KIND_STRUCT | KIND_UNION => {
                    let fields = (0..count).map(|index| field(types, at + index * TYPE_LEN, kind_flag));
                    self.members.insert(id, fields.collect::<Result<_, _>>()?);
                    if kind == KIND_STRUCT && name != 0 {
                        let name = self.string(name).to_vec();
                        self.structs.entry(name).or_insert(id);
                    }
                }
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    self.aliases.insert(id, size_or_type);
                }
                _ => {}
            }
            at += match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * 12,
                KIND_ENUM | KIND_FUNC_PROTO => count * 8,
                _ => 0,
            };
            id += 1;
        }
        Ok(())
    }

    /// Finds a member by its path, such as `__sk_common.skc_cookie` of `sock`, through anonymous structs and unions.
    #[must_use]
    pub fn member(&self, structure: &str, path: &str) -> Option<Member> {
        let mut id = *self.structs.get(structure.as_bytes())?;
        let mut base = 0;
        let mut found = None;
        for name in path.split('.') {
            let (type_id, member) = self.find(id, name.as_bytes())?;
            found = Some(Member {
                bit_offset: base + member.bit_offset,
                ..member
            });
            base += member.bit_offset;
            id = self.resolve(type_id);
        }
        found
    }

    fn find(&self, id: u32, name: &[u8]) -> Option<(u32, Member)> {
        let fields = self.members.get(&id)?;
        if let Some(field) = fields
            .iter()
            .find(|field| field.name != 0 && self.string(field.name) == name)
        {
            return Some((field.type_id, field.member));
        }
        fields.iter().filter(|field| field.name == 0).find_map(|field| {
            let (type_id, inner) = self.find(self.resolve(field.type_id), name)?;
            Some((
                type_id,
                Member {
                    bit_offset: field.member.bit_offset + inner.bit_offset,
                    ..inner
                },
            ))
        })
    }

    fn resolve(&self, mut id: u32) -> u32 {
        // A chain longer than the number of aliases would be a circle, which malformed data could have.
        for _ in 0..=self.aliases.len() {
            match self.aliases.get(&id) {
                Some(next) => id = *next,
                None => break,
            }
        }
        id
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

fn word(data: &[u8], at: usize) -> Result<u32, BtfError> {
    let bytes = data.get(at..at + 4).ok_or(BtfError::Malformed("truncated"))?;
    Ok(u32::from_ne_bytes(
        bytes.try_into().map_err(|_| BtfError::Malformed("truncated"))?,
    ))
}

fn field(types: &[u8], at: usize, kind_flag: bool) -> Result<Field, BtfError> {
    let (name, type_id, offset) = (word(types, at)?, word(types, at + 4)?, word(types, at + 8)?);
    let member = if kind_flag {
        Member {
            bit_offset: offset & 0x00ff_ffff,
            bitfield_bits: offset >> 24,
        }
    } else {
        Member {
            bit_offset: offset,
            bitfield_bits: 0,
        }
    };
    Ok(Field {
        name,
        type_id,
        member,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct outer { int a; union { int b; struct inner in; }; unsigned c:3; }`, `struct inner { int x; alias y; }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0inner\0a\0b\0in\0c\0x\0y\0alias\0";
        let name = |text: &str| {
            let needle = format!("\0{text}\0");
            let at = strings
                .windows(needle.len())
                .position(|part| part == needle.as_bytes())
                .unwrap();
            u32::try_from(at + 1).unwrap()
        };
        let info = |kind: u32, count: u32, flag: bool| kind << 24 | count | u32::from(flag) << 31;
        let types: Vec<u32> = [
            vec![name("int"), info(KIND_INT, 0, false), 4, 0x0100_0020],
            vec![
                name("inner"),
                info(KIND_STRUCT, 2, false),
                8,
                name("x"),
                1,
                0,
                name("y"),
                3,
                32,
            ],
            vec![name("alias"), info(KIND_TYPEDEF, 0, false), 1],
            vec![
                0,
                info(KIND_UNION, 2, false),
                8,
                name("b"),
                1,
                0,
                name("in"),
                2,
                0,
            ],
            [
                vec![name("outer"), info(KIND_STRUCT, 3, true), 16],
                vec![name("a"), 1, 0, 0, 4, 32, name("c"), 1, 3 << 24 | 96],
            ]
            .concat(),
        ]
        .concat();
        let types: Vec<u8> = types.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let (types_len, strings_len) = (
            u32::try_from(types.len()).unwrap(),
            u32::try_from(strings.len()).unwrap(),
        );
        let mut data = MAGIC.to_ne_bytes().to_vec();
        data.extend([1, 0]);
        data.extend(
            [24_u32, 0, types_len, types_len, strings_len]
                .iter()
                .flat_map(|value| value.to_ne_bytes()),
        );
        data.extend(&types);
        data.extend(strings);
        data
    }

    #[test]
    fn members_through_anonymous_unions_and_bitfields() {
        let btf = Btf::parse(&sample()).unwrap();
        let plain = |bit_offset| {
            Some(Member {
                bit_offset,
                bitfield_bits: 0,
            })
        };
        assert_eq!(btf.member("outer", "a"), plain(0));
        assert_eq!(btf.member("outer", "b"), plain(32));
        assert_eq!(btf.member("outer", "in.y"), plain(64));
        assert_eq!(
            btf.member("outer", "c"),
            Some(Member {
                bit_offset: 96,
                bitfield_bits: 3
            })
        );
        assert_eq!(btf.member("outer", "missing"), None);
        assert_eq!(btf.member("missing", "a"), None);
    }

    proptest! {
        #[test]
        fn damaged_data_is_an_error_or_an_answer(at in 0_usize..sample().len(), byte: u8, len in 0_usize..200) {
            let mut data = sample();
            data[at] = byte;
            data.truncate(len.max(1));
            if let Ok(btf) = Btf::parse(&data) {
                let _ = btf.member("outer", "in.y");
            }
        }
    }
}
