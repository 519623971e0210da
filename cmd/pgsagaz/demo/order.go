package demo

// Order is the input of the saga.
type Order struct {
	ID       string `json:"id"`
	Run      string `json:"run"` // of the demo, which owns the stock
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
	Cents    int64  `json:"cents"`
	Card     Card   `json:"card"`
	Email    string `json:"email"`
	Address  string `json:"address"`
}

// SagaName is not plain "order", lest a demo in a database of yours meets your own orders.
func (Order) SagaName() string { return "demo.order" }

// Card is a means of payment.
type Card struct {
	Bank   string `json:"bank"` // the address of the payment service that issued it, as http://host:port
	Number string `json:"number"`
}

// Reservation is stock that waits for its parcel.
type Reservation struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

// Payment is a charge at the bank.
type Payment struct {
	ID    int64 `json:"id"`
	Cents int64 `json:"cents"`
}

// Parcel is on its way.
type Parcel struct {
	OrderID  string `json:"order_id"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
	Address  string `json:"address"`
}

// What makes an order fail for good.
const (
	soldOut   = "sold-out"  // an SKU of which there is none
	emptyCard = "card-0002" // a card that the bank declines
	farAway   = "Elba"      // an address that no parcel leaves for
)
