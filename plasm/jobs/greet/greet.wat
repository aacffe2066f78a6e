;; greet is a job without a compiler: it writes one line to stdout and exits with 0. greet.wasm is this
;; file, assembled with `wat2wasm greet.wat` of wabt.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "hello from WebAssembly text\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) ;; where the line begins
    (i32.store (i32.const 4) (i32.const 28)) ;; its length
    ;; file 1, one piece at 0, and the number of bytes that were written goes to 8
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))
      (then unreachable))))
