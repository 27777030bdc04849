/**
 * What protects connections after their handshake. `authenticated` (the default): every frame carries a code under a key of the connection
 * (AES-256-GCM), and requests, keys of regions and answers are encrypted; the bytes of regions can be read on the way. `encrypted`: these
 * too. `none`: nothing, for networks that nobody else can reach. A connection has the stronger one of what its two sides ask for.
 */
export type TcpProtection = 'none' | 'authenticated' | 'encrypted'
